"""Fine-tune a shipped detector on names of your own, and keep the others: LwF (arXiv:1606.09282), WiSE-FT (2109.01903).

ovdet train --config-file lite/own_data dataset.root=PATH
PATH holds images/, instances_train.json and instances_val.json, both with all classes. Requirements and figures:
configs/README.md; how to choose the share of the average: docs/own_data.md.
"""

from detectron2.config import LazyCall as L

from ovdet.engine.frozen import FrozenDetector
from ovdet.modeling.keeping import KeepingROIHeads

from ..common.lite_run import BASE_DETECTOR
from .base_detector import dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train

dataset.update(name="own_data", split=None)
dataloader.test.dataset.names.subsets = ["base"]
dataloader.train.total_batch_size = 4

model.roi_heads._target_ = KeepingROIHeads
model.roi_heads.frozen = L(FrozenDetector)(weights="${train.init_checkpoint}", embed_names="${name_embedder}")
model.roi_heads.keep_weight = 1.0
optimizer.lr = 2e-4
train.update(init_checkpoint=BASE_DETECTOR, freeze="backbone,proposal_generator", max_iter=300)
train.output_dir = "output/lite/own_data"

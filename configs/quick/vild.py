"""ViLD on drawn shapes: text classification and distillation in one head (arXiv:2104.13921).

ovdet train --config-file quick/vild
Requirements and figures: configs/README.md.
"""

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T

from ovdet.data.synthetic import build_synthetic

from ..common.lite_run import dataloader, dataset, lr_multiplier, name_embedder, optimizer, teacher, train
from ..common.methods import online_regions, vild
from ..common.models.lite import model

dataset.update(name="quick", root="output/quick/data", split="${.root}/ov_split.json", num_base=24)
dataset.prepare = L(build_synthetic)(root="${dataset.root}", num_train=240, num_val=40)
for _loader in (dataloader.train, dataloader.test):
    _loader.mapper.augmentations[-1] = L(T.ResizeShortestEdge)(short_edge_length=192, max_size=256)
del dataloader.train.mapper.augmentations[1]  # shapes stay whole
model = online_regions(vild(model, weight=0.1), max_regions=2)
dataloader.train.total_batch_size = 4
train.update(output_dir="output/quick/vild", max_iter=120, checkpoint_period=40, amp=False)

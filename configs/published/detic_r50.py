"""Fine-tune Detic's R50 (arXiv:2201.02605) on data of your own, boxes alone, with its federated loss.

ovdet train --config-file published/detic_r50 dataset.root=PATH
PATH holds images/, instances_train.json and instances_val.json. Requirements and figures: configs/README.md.
"""

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T

from ovdet.hub.published.detic import DETIC_R50

from ..common.lite_run import dataloader, dataset, lr_multiplier, optimizer, train
from ..common.published import fine_tuned, text_space
from ..common.teacher import name_embedder  # noqa: F401 - part of a run

teacher = text_space(DETIC_R50)
model = fine_tuned(DETIC_R50.build_model())
dataset.update(name="fine_tuned", split=None)
dataloader.test.dataset.names.subsets = ["base"]
_sides = dict(short_edge_length=(512, 576, 640), max_size=1066, sample_style="choice")
dataloader.train.mapper.augmentations = [L(T.RandomFlip)(horizontal=True), L(T.ResizeShortestEdge)(**_sides)]
dataloader.test.mapper.augmentations = [L(T.ResizeShortestEdge)(short_edge_length=640, max_size=1066)]
dataloader.train.total_batch_size = 4
optimizer.lr = 2e-5
train.update(
    init_checkpoint="detic:r50", freeze="backbone.bottom_up", max_iter=500, output_dir="output/published/detic_r50"
)

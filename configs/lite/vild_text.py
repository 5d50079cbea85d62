"""ViLD-text (arXiv:2104.13921) on small photos: a frozen text classifier, no distillation.

tools/train_net.py --config-file configs/lite/vild_text.py dataset.root=PATH
Hardware: two CPU cores or one GPU. Expected: docs/results.md.
As all methods here it trains the ROI heads alone, on the weights of configs/lite/base_detector.py (train.init_checkpoint).
PATH holds images/, instances_train.json, instances_val.json and ov_coco_split.json.
"""

from ..common.lite_run import (
    dataloader,
    dataset,
    lr_multiplier,
    name_embedder,
    on_base_detector,
    optimizer,
    teacher,
    train,
)
from ..common.models.lite import model

on_base_detector(train, "output/lite/vild_text")

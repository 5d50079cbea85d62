"""Stage 1 of ovdet-lite: ViLD-text on a frozen backbone, frozen-backbone branch (arXiv:2104.13921, 2209.15639).

ovdet train --config-file lite/base_detector dataset.root=PATH
Requirements and figures: configs/README.md.
"""

from ..common.components import (
    background_names,
    foreground_fusion,
    frozen_backbone_branch,
    iou_head,
    second_box_pass,
    soft_nms_sigma,
)
from ..common.lite_run import dataloader, dataset, lr_multiplier, name_embedder, optimizer, teacher, train
from ..common.models.lite import model

model = iou_head(frozen_backbone_branch(model))
model = soft_nms_sigma(second_box_pass(background_names(foreground_fusion(model))))
train.update(max_iter=4500, output_dir="output/lite/base_detector")

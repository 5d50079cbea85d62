"""The first stage of `ovdet-lite`: pyramid, RPN and heads on a frozen EfficientNet-Lite0, ViLD-text, no distillation.

tools/train_net.py --config-file configs/lite/base_detector.py dataset.root=PATH
Hardware: two CPU cores or one GPU.
Expected: box AP50 base / novel / all 23.1 / 9.0 / 19.4 with the frozen classifier's view of each region
(arXiv:2209.15639).
PATH holds images/, instances_train.json, instances_val.json and ov_coco_split.json.
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

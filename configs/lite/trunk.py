"""The first stage of `ovdet-lite`: pyramid, RPN and heads on a frozen EfficientNet-Lite0, ViLD-text, no distillation.

tools/train_net.py --config-file configs/lite/trunk.py dataset.root=PATH
Hardware: two CPU cores or one GPU.
Expected: box AP50 base / novel / all 23.1 / 9.0 / 19.4 with the frozen classifier's view of each region
(arXiv:2209.15639).
PATH holds images/, instances_train.json, instances_val.json and ov_coco_split.json.
"""

from ..common.beyond_vild import (
    dense_image_branch,
    foreground_fusion,
    localisation_quality,
    other_names,
    overlap_decay,
    second_box_pass,
)
from ..common.lite_run import dataloader, dataset, lr_multiplier, name_embedder, optimizer, teacher, train
from ..common.models.lite import model

model = localisation_quality(dense_image_branch(model))
model = overlap_decay(second_box_pass(other_names(foreground_fusion(model))))
train.update(max_iter=4500, output_dir="output/lite/trunk")

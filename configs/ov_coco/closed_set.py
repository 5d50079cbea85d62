"""Supervised closed-set Mask R-CNN on OV-COCO: a linear classifier over the base classes.

ovdet train --config-file ov_coco/closed_set --num-gpus 8 dataset.root=PATH
Requirements and figures: configs/README.md.
"""

from ..common.methods import closed_set
from .vild_text import dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train

model = closed_set(model)
train.output_dir = "output/ov_coco/closed_set"

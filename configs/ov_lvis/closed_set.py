"""Supervised closed-set Mask R-CNN on OV-LVIS v1: a linear classifier over the base classes.

ovdet train --config-file ov_lvis/closed_set --num-gpus 8 dataset.root=PATH
Requirements and figures: configs/README.md.
"""

from ..common.methods import closed_set
from .vild_text import dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train

model = closed_set(model)
train.output_dir = "output/ov_lvis/closed_set"

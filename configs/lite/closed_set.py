"""Supervised closed-set Faster R-CNN on small photos: a linear classifier over the base classes.

ovdet train --config-file lite/closed_set dataset.root=PATH
Requirements and figures: configs/README.md.
"""

from ..common.methods import closed_set
from .vild_text import dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train

model = closed_set(model)
train.output_dir = "output/lite/closed_set"

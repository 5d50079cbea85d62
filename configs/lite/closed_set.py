"""Supervised closed-set Faster R-CNN on small photos: a linear classifier over the base classes.

tools/train_net.py --config-file configs/lite/closed_set.py dataset.root=PATH
Requirements and figures: configs/README.md.
"""

from ..common.methods import closed_set
from .vild_text import dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train

model = closed_set(model)
train.output_dir = "output/lite/closed_set"

"""Supervised closed-set Mask R-CNN on OV-COCO: a linear classifier over the base classes.

tools/train_net.py --config-file configs/ov_coco/closed_set.py --num-gpus 8 dataset.root=PATH
Requirements and figures: configs/README.md.
"""

from ..common.methods import closed_set
from .vild_text import dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train

model = closed_set(model)
train.output_dir = "output/ov_coco/closed_set"

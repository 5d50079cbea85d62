"""Supervised closed-set Mask R-CNN on OV-COCO: a linear classifier over the base classes.

tools/train_net.py --config-file configs/ov_coco/closed_set.py --num-gpus 8 dataset.root=PATH
Hardware: 32 GPUs; each of 4 machines adds --num-machines 4 --machine-rank R --dist-url tcp://HOST:PORT.
Expected: no figure in the paper. Here: not yet run.
"""

from ..common.methods import closed_set
from .vild_text import dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train

model = closed_set(model)
train.output_dir = "output/ov_coco/closed_set"

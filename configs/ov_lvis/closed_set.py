"""Supervised closed-set Mask R-CNN on OV-LVIS v1: a linear classifier over the base classes.

tools/train_net.py --config-file configs/ov_lvis/closed_set.py --num-gpus 8 dataset.root=PATH
Hardware: 32 GPUs; each of 4 machines adds --num-machines 4 --machine-rank R --dist-url tcp://HOST:PORT.
Expected: mask APr / APc / APf / AP 0.0 / 22.6 / 32.4 / 22.5 in the paper. Here: not yet run.
"""

from ..common.methods import closed_set
from .vild_text import dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train

model = closed_set(model)
train.output_dir = "output/ov_lvis/closed_set"

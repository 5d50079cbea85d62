"""ViLD-text and UniCL's contrast with many right pairs of a class (arXiv:2204.03610).

tools/train_net.py --config-file configs/lite/unicl.py dataset.root=PATH
Requirements and figures: configs/README.md.
"""

from detectron2.config import LazyCall as L

from ovdet.objectives.unicl import UniCL

from .vild_text import dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train

model.roi_heads.objectives = [L(UniCL)(weight=0.2)]
train.output_dir = "output/lite/unicl"

"""ViLD with the cosine in place of L1: distillation by angle (arXiv:2104.13921).

tools/train_net.py --config-file configs/lite/distill_cosine.py dataset.root=PATH
Requirements and figures: configs/README.md.
"""

from detectron2.config import LazyCall as L

from ovdet.objectives.cosine_distillation import CosineDistillation

from .vild import dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train

model.roi_heads.objectives = [L(CosineDistillation)(weight=2.0)]
train.output_dir = "output/lite/distill_cosine"

"""ViLD with contrast in place of L1: a region picks out what the teacher says of it (arXiv:2103.00020).

tools/train_net.py --config-file configs/lite/distill_contrast.py dataset.root=PATH
Requirements and figures: configs/README.md.
"""

from detectron2.config import LazyCall as L

from ovdet.objectives.info_nce import ContrastiveDistillation

from .vild import dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train

model.roi_heads.objectives = [L(ContrastiveDistillation)(weight=0.2)]
train.output_dir = "output/lite/distill_contrast"

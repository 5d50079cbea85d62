"""ViLD with relations in place of L1: regions are as alike as the teacher finds them (arXiv:1904.05068).

tools/train_net.py --config-file configs/lite/distill_relations.py dataset.root=PATH
Requirements and figures: configs/README.md.
"""

from detectron2.config import LazyCall as L

from ovdet.objectives.relational_distillation import RelationalDistillation

from .vild import dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train

model.roi_heads.objectives = [L(RelationalDistillation)(weight=10.0)]
train.output_dir = "output/lite/distill_relations"

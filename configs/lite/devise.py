"""ViLD-text and DeViSE's hinge rank loss between regions and class texts (Frome et al., NIPS 2013).

tools/train_net.py --config-file configs/lite/devise.py dataset.root=PATH
Requirements and figures: configs/README.md.
"""

from detectron2.config import LazyCall as L

from ovdet.objectives.devise import DeViSE

from .vild_text import dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train

model.roi_heads.objectives = [L(DeViSE)(weight=1.0)]
train.output_dir = "output/lite/devise"

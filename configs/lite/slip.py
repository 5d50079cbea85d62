"""ViLD-text, CLIP's loss and SimCLR's on two views of each region (arXiv:2112.12750).

tools/train_net.py --config-file configs/lite/slip.py dataset.root=PATH
Requirements and figures: configs/README.md.
"""

from detectron2.config import LazyCall as L

from ovdet.objectives.info_nce import RegionTextInfoNCE
from ovdet.objectives.self_supervision import SimCLR

from .vild_text import dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train

model.roi_heads.objectives = [L(RegionTextInfoNCE)(weight=0.2), L(SimCLR)(weight=0.2)]
train.output_dir = "output/lite/slip"

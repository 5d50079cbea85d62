"""ViLD-text, CLIP's loss, SimSiam's on two views and nearest texts (arXiv:2110.05208).

tools/train_net.py --config-file configs/lite/declip.py dataset.root=PATH
Requirements and figures: configs/README.md.
"""

from detectron2.config import LazyCall as L

from ovdet.objectives.info_nce import RegionTextInfoNCE
from ovdet.objectives.nearest_texts import NearestTexts
from ovdet.objectives.self_supervision import SimSiam

from .vild_text import dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train

model.roi_heads.objectives = [
    L(RegionTextInfoNCE)(weight=0.2),
    L(SimSiam)(width="${teacher.width}", weight=0.2),
    L(NearestTexts)(weight=0.2),
]
train.output_dir = "output/lite/declip"

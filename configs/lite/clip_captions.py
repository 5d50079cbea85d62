"""ViLD-text and CLIP's loss, between regions and class texts and between photos and captions (arXiv:2103.00020).

ovdet train --config-file lite/clip_captions dataset.root=PATH dataset.captions=FILE
Requirements and figures: configs/README.md.
"""

from detectron2.config import LazyCall as L

from ovdet.objectives.info_nce import ImageTextInfoNCE, RegionTextInfoNCE

from ..common.captions import captioned
from .vild_text import dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train

captioned(dataset, dataloader, name_embedder)
model.roi_heads.objectives = [L(RegionTextInfoNCE)(weight=0.2), L(ImageTextInfoNCE)(weight=0.2)]
train.output_dir = "output/lite/clip_captions"

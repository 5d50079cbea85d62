"""ViLD-text and UniCL's contrast over regions with labels and photos with captions in one (arXiv:2204.03610).

ovdet train --config-file lite/unicl_captions dataset.root=PATH dataset.captions=FILE
Requirements and figures: configs/README.md.
"""

from detectron2.config import LazyCall as L

from ovdet.objectives.unicl import CaptionedUniCL

from ..common.captions import captioned
from .vild_text import dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train

captioned(dataset, dataloader, name_embedder)
model.roi_heads.objectives = [L(CaptionedUniCL)(weight=0.2)]
train.output_dir = "output/lite/unicl_captions"

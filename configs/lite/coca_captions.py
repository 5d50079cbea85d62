"""CoCa on regions and, with captions that people wrote, on whole photos (arXiv:2205.01917).

ovdet train --config-file lite/coca_captions dataset.root=PATH dataset.captions=FILE
Requirements and figures: configs/README.md.
"""

from ovdet.objectives.coca import CaptionedCoCa

from ..common.captions import captioned
from .coca import dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train

captioned(dataset, dataloader, name_embedder)
model.roi_heads.objectives[0]._target_ = CaptionedCoCa
train.output_dir = "output/lite/coca_captions"

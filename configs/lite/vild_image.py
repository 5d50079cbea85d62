"""ViLD-image on small photos: distillation alone, scores times objectness (arXiv:2104.13921).

ovdet train --config-file lite/vild_image dataset.root=PATH
Requirements and figures: configs/README.md.
"""

from ..common.components import roi_feature_regions
from ..common.methods import vild_image
from .vild_text import dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train

model = roi_feature_regions(vild_image(model, weight=0.2))
train.output_dir = "output/lite/vild_image"

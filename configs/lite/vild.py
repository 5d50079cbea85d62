"""ViLD on small photos: text classification and distillation in one head (arXiv:2104.13921).

ovdet train --config-file lite/vild dataset.root=PATH
Requirements and figures: configs/README.md.
"""

from ..common.components import roi_feature_regions
from ..common.methods import vild
from .vild_text import dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train

model = roi_feature_regions(vild(model, weight=0.2))
train.output_dir = "output/lite/vild"

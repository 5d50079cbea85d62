"""ViLD-image on OV-LVIS v1: distillation alone, scores times objectness (arXiv:2104.13921).

ovdet train --config-file ov_lvis/vild_image --num-gpus 8 dataset.root=PATH
Requirements and figures: configs/README.md.
"""

from ..common.methods import stored_regions, vild_image
from .vild_text import dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train

model = stored_regions(vild_image(model), dataloader)
train.output_dir = "output/ov_lvis/vild_image"

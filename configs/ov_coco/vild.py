"""ViLD on OV-COCO: text classification and distillation in one head (arXiv:2104.13921).

ovdet train --config-file ov_coco/vild --num-gpus 8 dataset.root=PATH
Requirements and figures: configs/README.md.
"""

from ..common.methods import stored_regions, vild
from .vild_text import dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train

model = stored_regions(vild(model), dataloader)
train.output_dir = "output/ov_coco/vild"

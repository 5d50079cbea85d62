"""ViLD-ensemble on OV-COCO: a second head is distilled, scores are fused (arXiv:2104.13921).

ovdet train --config-file ov_coco/vild_ensemble --num-gpus 8 dataset.root=PATH
Requirements and figures: configs/README.md.
"""

from ..common.methods import stored_regions, vild_ensemble
from .vild_text import dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train

model = stored_regions(vild_ensemble(model), dataloader)
train.output_dir = "output/ov_coco/vild_ensemble"

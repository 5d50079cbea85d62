"""ViLD on small photos, the teacher's embeddings from a region store (arXiv:2104.13921).

ovdet train --config-file lite/vild_stored dataset.root=PATH dataset.region_store=STORE
Requirements and figures: configs/README.md.
"""

from ..common.methods import stored_regions, vild
from .vild_text import dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train

dataset.region_store = "output/lite/regions"
model = stored_regions(vild(model, weight=0.2), dataloader, max_regions=32)
train.output_dir = "output/lite/vild_stored"

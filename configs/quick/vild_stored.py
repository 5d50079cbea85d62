"""ViLD on drawn shapes, the teacher's embeddings from a region store (arXiv:2104.13921).

ovdet train --config-file quick/vild_stored dataset.region_store=STORE
Requirements and figures: configs/README.md.
"""

from ..common.methods import stored_regions
from .vild import dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train

dataset.region_store = "output/quick/regions"
model = stored_regions(model, dataloader, max_regions=16)
train.output_dir = "output/quick/vild_stored"

"""ViLD (arXiv:2104.13921) in a minute, the teacher's regions from a store instead of online.

tools/train_net.py --config-file configs/quick/vild_stored.py dataset.region_store=STORE
Hardware: two CPU cores. Expected: as configs/quick/vild.py.
STORE is written by tools/extract_regions.py with configs/quick/vild.py and its weights.
"""

from ..common.methods import stored_regions
from .vild import dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train

dataset.region_store = "output/quick/regions"
model = stored_regions(model, dataloader, max_regions=16)
train.output_dir = "output/quick/vild_stored"

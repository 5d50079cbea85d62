"""ViLD-image (arXiv:2104.13921) on small photos, the teacher's regions from a store.

tools/train_net.py --config-file configs/lite/vild_image_stored.py dataset.root=PATH dataset.region_store=STORE
Hardware: two CPU cores or one GPU. Expected: docs/results.md.
STORE is written by tools/extract_regions.py with configs/lite/vild_text.py and its weights.
"""

from ..common.methods import stored_regions, vild_image
from .vild_text import dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train

dataset.region_store = "output/lite/regions"
model = stored_regions(vild_image(model), dataloader, max_regions=32)
train.output_dir = "output/lite/vild_image_stored"

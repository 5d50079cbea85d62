"""ViLD-image (arXiv:2104.13921) on small photos: distillation alone, scored with objectness.

tools/train_net.py --config-file configs/lite/vild_image.py dataset.root=PATH
Hardware: two CPU cores or one GPU. Expected: not yet run over the whole schedule.
"""

from ..common.methods import online_regions, vild_image
from .vild_text import dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train

model = online_regions(vild_image(model), max_regions=8)
train.output_dir = "output/lite/vild_image"

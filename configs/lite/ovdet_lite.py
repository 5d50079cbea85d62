"""ViLD-text and the frozen classifier's own view of each region (arXiv:2104.13921, arXiv:2209.15639): `ovdet-lite`.

tools/train_net.py --config-file configs/lite/ovdet_lite.py dataset.root=PATH
Hardware: two CPU cores or one GPU.
Expected: box AP50 base / novel / all 19.9 / 5.9 / 16.2, trained in two pieces (docs/results.md).
"""

from ..common.beyond_vild import dense_image_branch, foreground_fusion, localisation_quality
from .vild_text import dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train

model = foreground_fusion(localisation_quality(dense_image_branch(model)))
train.output_dir = "output/lite/ovdet_lite"

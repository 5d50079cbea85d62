"""Stage 1 of ovdet-lite with ATSS's assignment of anchors in the RPN (arXiv:1912.02424).

ovdet train --config-file lite/adaptive_rpn dataset.root=PATH
Requirements and figures: configs/README.md.
"""

from ..common.components import adaptive_anchors
from .base_detector import dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train

model = adaptive_anchors(model)
train.update(output_dir="output/lite/adaptive_rpn")

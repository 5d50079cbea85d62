"""Stage 1 of ovdet-lite with OLN's objectness: how well a place fits an object (arXiv:2108.06753).

ovdet train --config-file lite/localization_rpn dataset.root=PATH
Requirements and figures: configs/README.md.
"""

from ..common.components import objectness_by_localization
from .base_detector import dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train

model = objectness_by_localization(model)
train.update(output_dir="output/lite/localization_rpn")

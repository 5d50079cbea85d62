"""ViLD-text on small photos: classification against text embeddings, no distillation (arXiv:2104.13921).

ovdet train --config-file lite/vild_text dataset.root=PATH
Requirements and figures: configs/README.md.
"""

from ..common.lite_run import (
    dataloader,
    dataset,
    lr_multiplier,
    name_embedder,
    on_base_detector,
    optimizer,
    teacher,
    train,
)
from ..common.models.lite import model

on_base_detector(train, "output/lite/vild_text")

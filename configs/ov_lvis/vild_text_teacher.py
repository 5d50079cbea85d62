"""ViLD-text + teacher on OV-LVIS v1: scores fused with the teacher's on crops, "ViLD-text+CLIP" (arXiv:2104.13921).

ovdet train --config-file ov_lvis/vild_text_teacher --eval-only dataset.root=PATH
Requirements and figures: configs/README.md.
"""

from ..common.methods import vild_text_teacher, weights_of
from .vild_text import dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train

model = vild_text_teacher(model, max_crops=300)
dataloader.test.mapper.keep_original = True
weights_of(train, "output/ov_lvis/vild_text/model_final.pth", "output/ov_lvis/vild_text_teacher")

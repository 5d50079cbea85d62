"""ViLD-text + teacher on small photos: scores fused with the teacher's on crops, "ViLD-text+CLIP" (arXiv:2104.13921).

ovdet train --config-file lite/vild_text_teacher --eval-only dataset.root=PATH
Requirements and figures: configs/README.md.
"""

from ..common.components import background_names, ensemble_of_crops_and_roi_features, foreground_fusion
from ..common.methods import vild_text_teacher, weights_of
from .vild_text import dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train

model = ensemble_of_crops_and_roi_features(vild_text_teacher(model, max_crops=60, nms_threshold=0.7))
model = background_names(foreground_fusion(model))
dataloader.test.mapper.keep_original = True
weights_of(train, "output/lite/vild_text/model_final.pth", "output/lite/vild_text_teacher")

"""R-CNN style on small photos: the teacher names the crops of proposals (arXiv:2104.13921).

ovdet train --config-file lite/rcnn_style --eval-only dataset.root=PATH
Requirements and figures: configs/README.md.
"""

from ..common.components import background_names
from ..common.methods import rcnn_style, weights_of
from .vild_text import dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train

model = background_names(rcnn_style(model, max_crops=60, nms_threshold=0.7))
dataloader.test.mapper.keep_original = True
weights_of(train, "output/lite/vild_text/model_final.pth", "output/lite/rcnn_style")

"""R-CNN style on OV-COCO: the teacher names the crops of proposals (arXiv:2104.13921).

ovdet train --config-file ov_coco/rcnn_style --eval-only dataset.root=PATH
Requirements and figures: configs/README.md.
"""

from ..common.methods import rcnn_style, weights_of
from .vild_text import dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train

model = rcnn_style(model, max_crops=1000)
dataloader.test.mapper.keep_original = True
weights_of(train, "output/ov_coco/vild_text/model_final.pth", "output/ov_coco/rcnn_style")

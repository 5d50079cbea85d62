"""R-CNN style on OV-LVIS v1: proposals, then the teacher on their crops, times objectness.

tools/train_net.py --config-file configs/ov_lvis/rcnn_style.py --eval-only dataset.root=PATH
Hardware: 1 GPU. Expected: mask APr / APc / APf / AP 18.9 / 18.8 / 16.0 / 17.7 in the paper. Here: not yet run.
Nothing to train: it takes the weights of configs/ov_lvis/vild_text.py (train.init_checkpoint).
"""

from ..common.methods import rcnn_style, weights_of
from .vild_text import dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train

model = rcnn_style(model, max_crops=1000)
dataloader.test.mapper.keep_original = True
weights_of(train, "output/ov_lvis/vild_text/model_final.pth", "output/ov_lvis/rcnn_style")

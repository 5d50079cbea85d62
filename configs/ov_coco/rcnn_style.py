"""R-CNN style on OV-COCO: proposals, then the teacher on their crops, times objectness.

tools/train_net.py --config-file configs/ov_coco/rcnn_style.py --eval-only dataset.root=PATH
Hardware: 1 GPU. Expected: box AP50 novel / base / all 26.3 / 28.3 / 27.8 in the paper. Here: not yet run.
Nothing to train: it takes the weights of configs/ov_coco/vild_text.py (train.init_checkpoint).
"""

from ..common.methods import rcnn_style, weights_of
from .vild_text import dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train

model = rcnn_style(model, max_crops=1000)
dataloader.test.mapper.keep_original = True
weights_of(train, "output/ov_coco/vild_text/model_final.pth", "output/ov_coco/rcnn_style")

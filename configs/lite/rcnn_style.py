"""R-CNN style on small photos: proposals, then the teacher on their crops, times objectness.

tools/train_net.py --config-file configs/lite/rcnn_style.py --eval-only train.init_checkpoint=output/lite/vild_text/model_final.pth dataset.root=PATH train.output_dir=output/lite/rcnn_style
Hardware: two CPU cores or one GPU. Expected: not yet run over the whole schedule.
It has nothing to train: weights are those of configs/lite/vild_text.py.
"""

from ..common.methods import rcnn_style
from .vild_text import dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train

model = rcnn_style(model, max_crops=40)
dataloader.test.mapper.keep_original = True
train.output_dir = "output/lite/rcnn_style"

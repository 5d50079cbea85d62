"""ViLD-text + teacher on crops (arXiv:2104.13921, "ViLD-text+CLIP") on small photos.

tools/train_net.py --config-file configs/lite/vild_text_teacher.py --eval-only train.init_checkpoint=output/lite/vild_text/model_final.pth dataset.root=PATH train.output_dir=output/lite/vild_text_teacher
Hardware: two CPU cores or one GPU. Expected: not yet run over the whole schedule.
It has nothing to train: weights are those of configs/lite/vild_text.py.
"""

from ..common.methods import vild_text_teacher
from .vild_text import dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train

model = vild_text_teacher(model, max_crops=40)
dataloader.test.mapper.keep_original = True
train.output_dir = "output/lite/vild_text_teacher"

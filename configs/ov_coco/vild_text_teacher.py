"""ViLD-text + teacher on crops (arXiv:2104.13921, "ViLD-text+CLIP") on OV-COCO.

tools/train_net.py --config-file configs/ov_coco/vild_text_teacher.py --eval-only dataset.root=PATH
Hardware: 1 GPU. Expected: no figure in the paper. Here: not yet run.
Nothing to train: it takes the weights of configs/ov_coco/vild_text.py (train.init_checkpoint).
"""

from ..common.methods import vild_text_teacher, weights_of
from .vild_text import dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train

model = vild_text_teacher(model, max_crops=300)
dataloader.test.mapper.keep_original = True
weights_of(train, "output/ov_coco/vild_text/model_final.pth", "output/ov_coco/vild_text_teacher")

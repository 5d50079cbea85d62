"""ViLD-text + teacher on crops (arXiv:2104.13921, "ViLD-text+CLIP") on OV-COCO.

tools/train_net.py --config-file configs/ov_coco/vild_text_teacher.py --eval-only train.init_checkpoint=output/ov_coco/vild_text/model_final.pth
Hardware: 1 GPU. Expected: no figure in the paper. Here: not yet run.
Nothing to train: the weights are those of configs/ov_coco/vild_text.py.
"""

from ..common.methods import vild_text_teacher
from .vild_text import dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train

model = vild_text_teacher(model, max_crops=300)
dataloader.test.mapper.keep_original = True
train.output_dir = "output/ov_coco/vild_text_teacher"

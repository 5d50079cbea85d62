"""ViLD-text on OV-COCO: classification against text embeddings, no distillation (arXiv:2104.13921).

ovdet train --config-file ov_coco/vild_text --num-gpus 8 dataset.root=PATH
Requirements and figures: configs/README.md.
"""

import os

from detectron2.config import LazyCall as L

from ovdet.data.catalog import register_builtin

from ..common.clip_teacher import name_embedder, teacher
from ..common.data.coco_subsets import dataloader
from ..common.models.r50_fpn import model
from ..common.vild_schedule import optimizer, step_schedule, test_augmentations, train, train_augmentations

dataset = dict(
    name="ov_coco_2017",
    root=os.environ.get("DETECTRON2_DATASETS", "datasets"),
    region_store="${.root}/coco/ovdet/regions_train2017",
    num_base=48,
)
dataloader.train.dataset.names = L(register_builtin)(name="ov_coco_2017_train", root="${dataset.root}")
dataloader.test.dataset.names = L(register_builtin)(name="ov_coco_2017_val", root="${dataset.root}")
dataloader.train.mapper.update(augmentations=train_augmentations, use_masks=True)
dataloader.test.mapper.augmentations = test_augmentations
dataloader.train.total_batch_size = 256
lr_multiplier = step_schedule(45000)
train.update(max_iter=45000, output_dir="output/ov_coco/vild_text")

"""ViLD-text on OV-LVIS v1: classification against text embeddings, no distillation (arXiv:2104.13921).

ovdet train --config-file ov_lvis/vild_text --num-gpus 8 dataset.root=PATH
Requirements and figures: configs/README.md.
"""

import os

from detectron2.config import LazyCall as L

from ovdet.data.catalog import register_builtin
from ovdet.data.samplers import repeat_factor_sampler

from ..common.clip_teacher import name_embedder, teacher
from ..common.data.coco_subsets import dataloader
from ..common.models.r50_fpn import model
from ..common.vild_schedule import lr_multiplier, optimizer, test_augmentations, train, train_augmentations

dataset = dict(
    name="ov_lvis_v1",
    root=os.environ.get("DETECTRON2_DATASETS", "datasets"),
    region_store="${.root}/lvis/ovdet/regions_lvis_v1_train",
    num_base=866,
)
dataloader.train.dataset.names = L(register_builtin)(name="ov_lvis_v1_train", root="${dataset.root}")
dataloader.test.dataset.names = L(register_builtin)(name="ov_lvis_v1_val", root="${dataset.root}")
# as in DetPro and Detic; ViLD's released recipe has nothing of the kind (dataloader.train.sampler=null)
dataloader.train.sampler = L(repeat_factor_sampler)(threshold=1e-3)
dataloader.train.mapper.update(augmentations=train_augmentations, use_masks=True)
dataloader.test.mapper.augmentations = test_augmentations
dataloader.evaluator.iou_types = ("bbox", "segm")  # federated, 300 detections, as the data set's protocol is
dataloader.train.total_batch_size = 256
train.output_dir = "output/ov_lvis/vild_text"

"""ViLD-text (arXiv:2104.13921) on OV-COCO, 48 base and 17 novel classes, ResNet-50-FPN, 45k steps of 256 photos.

tools/train_net.py --config-file configs/ov_coco/vild_text.py --num-gpus 8 dataset.root=PATH
Hardware: 32 GPUs; each of 4 machines adds --num-machines 4 --machine-rank R --dist-url tcp://HOST:PORT.
Expected: box AP50 novel / base / all 5.9 / 61.8 / 47.2 in the paper. Here: not yet run.
PATH holds annotations/instances_{train,val}2017.json, train2017/ and val2017/.
"""

import os

from ..common.clip_teacher import name_embedder, teacher
from ..common.data.coco_subsets import dataloader
from ..common.models.r50_fpn import model
from ..common.vild_schedule import optimizer, step_schedule, test_augmentations, train, train_augmentations

_metadata = os.path.join(os.path.dirname(__file__), "../../datasets/metadata")
dataset = dict(
    name="ov_coco_2017",
    root=os.path.join(os.environ.get("DETECTRON2_DATASETS", "datasets"), "coco"),
    train="${.root}/annotations/instances_train2017.json",
    val="${.root}/annotations/instances_val2017.json",
    split=os.path.abspath(f"{_metadata}/ov_coco.json"),
    region_store="${.root}/ovdet/regions_train2017.safetensors",
    num_base=48,
)
dataloader.train.dataset.names.image_root = "${dataset.root}/train2017"
dataloader.test.dataset.names.image_root = "${dataset.root}/val2017"
dataloader.train.mapper.update(augmentations=train_augmentations, use_masks=True)
dataloader.test.mapper.augmentations = test_augmentations
dataloader.train.total_batch_size = 256
lr_multiplier = step_schedule(45000)
train.update(max_iter=45000, output_dir="output/ov_coco/vild_text")

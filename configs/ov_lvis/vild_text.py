"""ViLD-text (arXiv:2104.13921) on OV-LVIS v1, 866 base and 337 novel (rare) classes, ResNet-50-FPN, 180k steps of 256.

tools/train_net.py --config-file configs/ov_lvis/vild_text.py --num-gpus 8 dataset.root=PATH
Hardware: 32 GPUs; each of 4 machines adds --num-machines 4 --machine-rank R --dist-url tcp://HOST:PORT.
Expected: mask APr / APc / APf / AP 10.1 / 23.9 / 32.5 / 24.9 in the paper. Here: not yet run.
PATH holds lvis_v1_{train,val}.json, train2017/ and val2017/.
"""

import os

from ..common.clip_teacher import name_embedder, teacher
from ..common.data.coco_subsets import dataloader
from ..common.models.r50_fpn import model
from ..common.vild_schedule import lr_multiplier, optimizer, test_augmentations, train, train_augmentations

_metadata = os.path.join(os.path.dirname(__file__), "../../datasets/metadata")
dataset = dict(
    name="ov_lvis_v1",
    root=os.path.join(os.environ.get("DETECTRON2_DATASETS", "datasets"), "lvis"),
    images="${.root}",  # LVIS names its photos by the end of coco_url: train2017/..., val2017/...
    train="${.root}/lvis_v1_train.json",
    val="${.root}/lvis_v1_val.json",
    split=os.path.abspath(f"{_metadata}/ov_lvis_v1.json"),
    region_store="${.root}/ovdet/regions_lvis_v1_train.safetensors",
    num_base=866,
)
dataloader.train.mapper.update(augmentations=train_augmentations, use_masks=True)
dataloader.test.mapper.augmentations = test_augmentations
dataloader.evaluator.update(iou_types=("bbox", "segm"), max_detections=300)
dataloader.train.total_batch_size = 256
train.output_dir = "output/ov_lvis/vild_text"

"""ViLD-text (arXiv:2104.13921) on small photos: a frozen text classifier, no distillation.

tools/train_net.py --config-file configs/lite/vild_text.py dataset.root=PATH
Hardware: two CPU cores or one GPU. Expected: not yet run over the whole schedule.
PATH holds images/, instances_train.json, instances_val.json and ov_coco_split.json.
"""

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T
from detectron2.model_zoo import get_config
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import CosineParamScheduler

from ovdet.engine import TrainOptions

from ..common.data.coco_subsets import dataloader
from ..common.models.lite import model
from ..common.teacher import name_embedder, teacher

dataset = dict(
    name="lite",
    root="datasets/lite",
    images="${.root}/images",
    train="${.root}/instances_train.json",
    val="${.root}/instances_val.json",
    split="${.root}/ov_coco_split.json",
    num_base=48,
)
_zoom = L(T.RandomApply)(tfm_or_aug=L(T.RandomCrop)(crop_type="relative_range", crop_size=(0.5, 0.5)), prob=0.5)
_resize = L(T.ResizeShortestEdge)(short_edge_length=(320, 384, 448), max_size=597, sample_style="choice")
dataloader.train.mapper.augmentations.extend([_zoom, _resize])
dataloader.test.mapper.augmentations.append(L(T.ResizeShortestEdge)(short_edge_length=448, max_size=597))
dataloader.train.update(total_batch_size=8, num_workers=2)
optimizer = get_config("common/optim.py").AdamW
optimizer.update(lr=8e-4, weight_decay=0.05)
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(CosineParamScheduler)(start_value=1.0, end_value=0.01), warmup_length=0.05, warmup_factor=0.01
)
train = L(TrainOptions)(output_dir="output/lite/vild_text", device="auto", seed=0, max_iter=3600)
train.update(clip_gradient_norm=10.0, checkpoint_period=200, amp=True)

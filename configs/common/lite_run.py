"""The common part of the configs of small photos: data, schedule, and a method's heads on the base detector."""

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T
from detectron2.model_zoo import get_config
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import CosineParamScheduler
from omegaconf import DictConfig

from ovdet.engine.options import TrainOptions

from .data.coco_subsets import dataloader
from .teacher import name_embedder, teacher  # noqa: F401 - part of a run

BASE_DETECTOR = "ovdet-lite-base48"  # comes with the package; configs/lite/base_detector.py trains one of your own

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
dataloader.test.num_workers = 2
optimizer = get_config("common/optim.py").AdamW
optimizer.update(lr=8e-4, weight_decay=0.05)
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(CosineParamScheduler)(start_value=1.0, end_value=0.01), warmup_length=0.05, warmup_factor=0.01
)
train = L(TrainOptions)(device="auto", seed=0, clip_gradient_norm=10.0, checkpoint_period=200, amp=True)


def on_base_detector(train: DictConfig, output_dir: str) -> None:
    """Train the ROI heads alone, from scratch: methods differ in nothing else, and all see the same proposals."""
    parts = "backbone,proposal_generator"
    train.update(init_checkpoint=BASE_DETECTOR, init_parts=parts, freeze=parts, max_iter=600, output_dir=output_dir)

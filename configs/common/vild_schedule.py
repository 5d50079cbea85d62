"""ViLD's schedule (tensorflow/tpu, vild_*.yaml): SGD, batch of 256, large-scale jitter to 1024 x 1024."""

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T
from detectron2.model_zoo import get_config
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler

from ovdet.engine.options import TrainOptions

train_augmentations = [
    L(T.RandomFlip)(horizontal=True),
    L(T.ResizeScale)(min_scale=0.1, max_scale=2.0, target_height=1024, target_width=1024),
    L(T.FixedSizeCrop)(crop_size=(1024, 1024), pad=False),
]
test_augmentations = [L(T.ResizeShortestEdge)(short_edge_length=1024, max_size=1024)]
optimizer = get_config("common/optim.py").SGD
optimizer.update(lr=0.32, momentum=0.9, weight_decay=4e-5)
optimizer.params.update(weight_decay_norm=0.0, weight_decay_bias=0.0)


def step_schedule(max_iter: int) -> dict:
    """x 0.1 at 0.9, 0.95 and 0.975 of the steps, after 1000 steps of warm-up from 1/100."""
    return L(WarmupParamScheduler)(
        scheduler=L(MultiStepParamScheduler)(
            values=[1.0, 0.1, 0.01, 0.001], milestones=[0.9 * max_iter, 0.95 * max_iter, 0.975 * max_iter, max_iter]
        ),
        warmup_length=1000 / max_iter,
        warmup_factor=0.01,
    )


lr_multiplier = step_schedule(180000)
train = L(TrainOptions)(device="auto", seed=0, max_iter=180000, amp=True, eval_period=20000)

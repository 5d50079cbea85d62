"""Stage 2 of ovdet-lite: backbone fine-tuned, distilled from its frozen ImageNet classifier (arXiv:2104.13921).

ovdet train --config-file lite/ovdet_lite dataset.root=PATH
Requirements and figures: configs/README.md.
"""

from detectron2.config import LazyCall as L

from ovdet.data.samplers import repeat_factor_sampler
from ovdet.engine.learning_rate import part_lr_multiplier

from ..common.components import roi_feature_regions
from ..common.methods import vild
from .base_detector import dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train

model = roi_feature_regions(vild(model, weight=0.2), max_regions=48)
model.roi_heads.image_branch.trained = True
model.backbone.bottom_up.update(freeze_stages=3, freeze_depthwise=True)
model.roi_heads.batch_size_per_image = 96
model.proposal_generator.batch_size_per_image = 256
dataloader.train.sampler = L(repeat_factor_sampler)(threshold=0.1)
optimizer.update(lr=4e-4)
optimizer.params.lr_factor_func = L(part_lr_multiplier)(part="backbone.bottom_up", factor=0.25)
train.update(init_checkpoint=f"{train.output_dir}/model_final.pth", max_iter=4600, output_dir="output/lite/ovdet_lite")

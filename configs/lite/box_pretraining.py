"""Boxes first: pyramid, RPN and box head learn from the boxes of all sets, whatever their names.

ovdet train --config-file lite/box_pretraining dataset.root=PATH dataset.more=SETS
ovdet train --config-file lite/ovdet_lite_mixture dataset.root=PATH dataset.more=SETS
    train.init_checkpoint=output/lite/box_pretraining/model_final.pth
Requirements and figures: configs/README.md.
"""

from .ovdet_lite_mixture import dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train

dataset.name = "lite_boxes"
model.update(region_source=None)
model.roi_heads.objectives = []
model.roi_heads.image_branch.trained = False
model.roi_heads.box_predictor.loss_weight = {"loss_cls": 0.0}
model.backbone.bottom_up.freeze_stages = 8
optimizer.lr = 8e-4
train.update(init_checkpoint="", max_iter=3000, output_dir="output/lite/box_pretraining")

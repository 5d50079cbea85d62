"""Transfer to VOC 2007 test: ViLD-ensemble trained on OV-LVIS (arXiv:2104.13921).

ovdet train --config-file transfer/voc --eval-only dataset.root=PATH train.init_checkpoint=W
Requirements and figures: configs/README.md.
"""

from ..ov_lvis.vild_ensemble import dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train

dataloader.test.dataset.names.name = "voc_2007_test"
dataloader.evaluator.iou_types = ("bbox",)
# no class is base here: one exponent of the text side for all, DetPro's
model.roi_heads.score_fusion.update(
    open_exponent=0.6, base_exponent="${.open_exponent}", novel_exponent="${.open_exponent}"
)
model.roi_heads.mask_in_features = None  # boxes alone are scored
train.update(init_checkpoint="output/ov_lvis/vild_ensemble/model_final.pth", output_dir="output/transfer/voc")

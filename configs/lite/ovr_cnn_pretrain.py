"""OVR-CNN's first stage: box head and projection learn from captions alone, no boxes (arXiv:2011.10678).

ovdet train --config-file lite/ovr_cnn_pretrain dataset.root=PATH dataset.captions=FILE
The second stage is ovr_cnn_detector.py. Requirements and figures: configs/README.md.
"""

from ovdet.modeling.caption_pretraining import CaptionPretrainingROIHeads

from .ovr_cnn import dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train

for _node in (dataloader.train.dataset, dataloader.train.dataset.names):
    _node.filter_empty = False  # photos without a box have captions, too
model.roi_heads._target_ = CaptionPretrainingROIHeads
model.roi_heads.objectives[0].weight = 1.0
model.proposal_generator.loss_weight = 0.0
_unused = "roi_heads.box_predictor.bbox_pred,roi_heads.box_predictor.classifier"
train.update(freeze=f"backbone,proposal_generator,{_unused}", output_dir="output/lite/ovr_cnn_pretrain")

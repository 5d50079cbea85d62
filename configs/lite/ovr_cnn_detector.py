"""OVR-CNN's second stage: ViLD-text with box head and frozen projection from captions (arXiv:2011.10678).

ovdet train --config-file lite/ovr_cnn_detector dataset.root=PATH
Starts from the weights of ovr_cnn_pretrain.py. Requirements and figures: configs/README.md.
"""

from .vild_text import dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train

_parts, _projection = "backbone,proposal_generator", "roi_heads.box_predictor.projection"
train.update(init_checkpoint="output/lite/ovr_cnn_pretrain/model_final.pth", output_dir="output/lite/ovr_cnn_detector")
train.update(init_parts=f"{_parts},roi_heads.box_head,{_projection}", freeze=f"{_parts},{_projection}")

"""ViLD-text on precomputed proposals in place of the RPN's (Fast R-CNN, arXiv:1504.08083).

ovdet train --config-file lite/fast_rcnn dataset.root=PATH dataset.proposals_train=FILE dataset.proposals_val=FILE
Requirements and figures: configs/README.md.
"""

from ..common.methods import precomputed_proposals
from .vild_text import dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train

model = precomputed_proposals(model, dataset, dataloader)
train.init_parts = train.freeze = "backbone"
train.output_dir = "output/lite/fast_rcnn"

"""ViLD with locked towers: backbone, proposals and box head stay, the projection alone learns (LiT, arXiv:2111.07991).

tools/train_net.py --config-file configs/lite/lit.py dataset.root=PATH
Requirements and figures: configs/README.md.
"""

from .vild import dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train

train.init_parts = train.freeze = "backbone,proposal_generator,roi_heads.box_head"
train.output_dir = "output/lite/lit"

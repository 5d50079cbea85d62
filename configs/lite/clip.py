"""ViLD-text and CLIP's symmetric InfoNCE between regions and class texts (arXiv:2103.00020).

tools/train_net.py --config-file configs/lite/clip.py dataset.root=PATH
Requirements and figures: configs/README.md.
"""

from detectron2.config import LazyCall as L

from ovdet.objectives.info_nce import RegionTextInfoNCE

from .vild_text import dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train

model.roi_heads.objectives = [L(RegionTextInfoNCE)(weight=0.2)]
train.output_dir = "output/lite/clip"

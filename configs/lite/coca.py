"""ViLD-text and CoCa: contrast with texts, and a decoder that writes what regions show (arXiv:2205.01917).

ovdet train --config-file lite/coca dataset.root=PATH
`ovdet describe photo.jpg --model output/lite/coca` then has the decoder write. Requirements and figures:
configs/README.md.
"""

from detectron2.config import LazyCall as L

from ovdet.objectives.coca import CoCa

from .vild_text import dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train

model.roi_heads.objectives = [
    L(CoCa)(channels="${model.backbone.out_channels}", width="${teacher.width}", weight=0.2),
]
train.output_dir = "output/lite/coca"

"""ViLD-text and FILIP's late interaction of region cells and the words of class names (arXiv:2111.07783).

tools/train_net.py --config-file configs/lite/filip.py dataset.root=PATH
Requirements and figures: configs/README.md.
"""

from detectron2.config import LazyCall as L

from ovdet.objectives.filip import FILIP

from .vild_text import dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train

model.roi_heads.objectives = [
    L(FILIP)(
        channels="${model.backbone.out_channels}",
        width="${teacher.width}",
        embed_names="${name_embedder}",
        weight=0.2,
    ),
]
train.output_dir = "output/lite/filip"

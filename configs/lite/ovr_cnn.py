"""ViLD-text and caption grounding: regions fit the words of their photo's caption (OVR-CNN, arXiv:2011.10678).

tools/train_net.py --config-file configs/lite/ovr_cnn.py dataset.root=PATH dataset.captions=FILE
Requirements and figures: configs/README.md.
"""

from detectron2.config import LazyCall as L

from ovdet.data.captions import CaptionWords
from ovdet.objectives.caption_grounding import CaptionGrounding

from .vild_text import dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train

dataset.captions = "${.root}/captions_train.json"
dataloader.train.mapper.captions = L(CaptionWords)(captions="${dataset.captions}", embed_names="${name_embedder}")
model.roi_heads.objectives = [L(CaptionGrounding)(weight=0.2)]
train.output_dir = "output/lite/ovr_cnn"

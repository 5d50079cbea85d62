"""ViLD (arXiv:2104.13921) in a minute: drawn shapes, names such as "red circle", combinations held out as novel.

tools/train_net.py --config-file configs/quick/vild.py
Hardware: two CPU cores. Expected: AP50 base / novel / all 99.3 / 99.2 / 99.3.
"""

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T

from ovdet.data import build_synthetic

from ..common.methods import online_regions, vild
from ..lite.vild_text import dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train

dataset.update(name="quick", root="output/quick/data", split="${.root}/ov_split.json", num_base=24)
dataset.prepare = L(build_synthetic)(root="${dataset.root}", num_train=240, num_val=40)
for _loader in (dataloader.train, dataloader.test):
    _loader.mapper.augmentations[-1] = L(T.ResizeShortestEdge)(short_edge_length=192, max_size=256)
model = online_regions(vild(model, weight=0.1), max_regions=2)
# nothing drawn is small: the finest level is left out
model.backbone.bottom_up.update(out_indices=(2, 3, 4), freeze_stages=4)
model.backbone.in_features = ["stride8", "stride16", "stride32"]
model.proposal_generator.in_features = ["p3", "p4", "p5", "p6"]
model.proposal_generator.anchor_generator.update(sizes=[[32], [64], [128], [256]], strides=[8, 16, 32, 64])
model.roi_heads.box_in_features = ["p3", "p4", "p5"]
model.roi_heads.box_pooler.scales = (1 / 8, 1 / 16, 1 / 32)
model.roi_heads.batch_size_per_image = 64
dataloader.train.total_batch_size = 4
train.update(output_dir="output/quick/vild", max_iter=120, checkpoint_period=40)

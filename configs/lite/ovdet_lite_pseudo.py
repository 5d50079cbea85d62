"""The mixture with pseudo-labels: what another detector finds of the names that a set lacks, as soft labels.

ovdet train --config-file lite/ovdet_lite_pseudo dataset.root=PATH dataset.more=SETS dataset.labels=LABELS
    train.init_checkpoint=output/lite/mixture/model_final.pth
LABELS holds a NAME.json for each set, of `ovdet label --missing`. Requirements and figures: configs/README.md.
"""

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T

from ..common.mixture import data_set, train_on
from .ovdet_lite_mixture import (
    _coco,
    _parts,
    _whole,
    dataloader,
    dataset,
    lr_multiplier,
    model,
    name_embedder,
    optimizer,
    teacher,
    train,
)

dataset.update(name="lite_pseudo", labels="${.root}/labels")
_shares = {**_whole, "voc2007": 36, "animal_pose": 12}
_exhaustive = ("voc2007", "animal_pose")
_sets = [data_set(name, share, is_exhaustive=name in _exhaustive) for name, share in _shares.items()]
_sets += [data_set(name, share, are_parts=True) for name, share in _parts.items()]
for _set in _sets:
    _set.json_file = f"${{dataset.labels}}/{_set.name}.json"
_coco.share = 60
train_on(dataloader, [_coco, *_sets])
dataloader.train.total_batch_size = 4
_sides = dict(short_edge_length=(352, 384, 416, 448, 480), max_size=640, sample_style="choice")
dataloader.train.mapper.augmentations[-1] = L(T.ResizeShortestEdge)(**_sides)

model.roi_heads.box_predictor.soft_labels = True
model.backbone.bottom_up.freeze_stages = 3
train.update(max_iter=1950, output_dir="output/lite/pseudo")

"""As own_data.py, but with base data mixed in instead of a frozen copy: half of the photos are of it.

ovdet train --config-file lite/own_data_mixed dataset.root=PATH dataset.base=COCO
PATH holds images/, instances_train.json and instances_val.json; COCO the base data, images/ and instances_train.json,
another share of it by dataset.base_share. Requirements and figures: configs/README.md; how to choose the share of the
average: docs/own_data.md.
"""

from detectron2.config import LazyCall as L

from ovdet.data.mixture import DataSet

from ..common.mixture import partial_labels, train_on
from .own_data import dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train

dataset.update(name="own_data_mixed", base="datasets/lite", base_share=1.0)
_base = L(DataSet)(name="base", json_file="${dataset.base}/instances_train.json", image_root="${dataset.base}/images")
_base.update(share="${dataset.base_share}", is_exhaustive=True, is_dense=True)
_own = L(DataSet)(name="own", json_file="${dataset.train}", image_root="${dataset.images}", is_exhaustive=True)
train_on(dataloader, [_own, _base], threshold=0.0)

model = partial_labels(model)
model.roi_heads.frozen = None
train.output_dir = "output/lite/own_data_mixed"

"""Several data sets in one training, federated by set: COCO, VOC and small public sets of everyday things.

ovdet train --config-file lite/ovdet_lite_mixture dataset.root=PATH dataset.more=SETS
Requirements and figures: configs/README.md.
"""

from detectron2.config import LazyCall as L

from ovdet.data.mixture import DataSet

from ..common.lite_run import BASE_DETECTOR
from ..common.mixture import data_set, partial_labels, train_on
from .ovdet_lite import dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train

dataset.update(name="lite_mixture", more="${.root}/more", split=None)
_coco = L(DataSet)(name="coco", json_file="${dataset.train}", image_root="${dataset.images}", share=42, hold_out=10)
_coco.update(is_exhaustive=True, is_dense=True)
_whole = {"voc2007": 27, "food_nutrigo": 7.5, "pot_curtain_toaster": 2.5, "animals7": 2, "lion_hyena_antelope": 0.8}
_whole |= {"amenity": 1, "garbage_bin": 0.5, "forklift": 0.4, "rabbit": 0.5, "fruit3": 0.8, "fruit9": 0.6, "chess": 0.6}
_whole |= {"plate_food13": 0.5, "pineapple": 0.3, "kuih": 0.4}
_parts = {"clothing_ccp": 10, "car_parts": 2, "okra_pepper_eggplant": 1, "burger_veg": 0.8, "lunch_tray": 0.7}
_sets = [_coco, *(data_set(name, share, is_exhaustive=name == "voc2007") for name, share in _whole.items())]
train_on(dataloader, [*_sets, *(data_set(name, share, are_parts=True) for name, share in _parts.items())])
dataloader.train.total_batch_size = 4

model = partial_labels(model)
model.backbone.bottom_up.freeze_stages = 4
model.region_source.max_regions = 16
optimizer.lr = 3e-4
train.update(init_checkpoint=BASE_DETECTOR, max_iter=3000, output_dir="output/lite/mixture")

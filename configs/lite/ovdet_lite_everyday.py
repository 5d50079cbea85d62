"""ovdet-lite with 33 more public sets of everyday things: tools, worn things, luggage, litter, furniture, signs.

ovdet train --config-file lite/ovdet_lite_everyday dataset.root=PATH dataset.more=SETS dataset.labels=LABELS
    dataset.everyday=EVERYDAY dataset.nanodet=FOLDER train.init_checkpoint=output/lite/expert/model_final.pth
EVERYDAY holds a folder for each set, instances.json and images/; docs/lab/boxes_and_training.md says where they are
from, and why the shipped weights are not these. Requirements and figures: configs/README.md.
"""

from ..common.mixture import data_set
from .ovdet_lite_expert import dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train

dataset.update(name="lite_everyday", everyday="${.root}/everyday")
_shares = {"coco": 14, "voc2007": 6, "animal_pose": 2, "clothing_ccp": 18, "food_nutrigo": 20}
_sets = dataloader.train.dataset.names.sets
for _set in _sets:
    _set.share = _shares.get(_set.name, _set.share)
# 3 times the root of the hundreds of photos: large sets more often, single photos of small ones more often
_whole = {"backpack": 2.5, "capybara": 3.7, "cardboard_box": 4.7, "coin_jo": 2.1, "emergency": 3.8, "flower_tw": 1.8}
_whole |= {"furniture11": 4.1, "hammer": 1.9, "leaf": 3.3, "luggage_th": 3.5, "mushroom": 3.1, "package": 3.6}
_whole |= {"pen": 1.5, "plant_pot": 3.7, "plate_id": 3.0, "plate_tr": 1.9, "playing_card": 3.0, "playing_card2": 1.9}
_whole |= {"raccoon": 4.1, "street_light": 3.2, "taco": 6.4, "tools": 3.4, "traffic_sign_vn": 2.3, "vehicles_oi": 5.7}
_worn = {"baby_nose": 2.8, "bike_helmet": 4.7, "construction_site": 6.3, "earphones": 4.0, "facade": 3.1}
_worn |= {"glove_hand": 3.7, "hardhat": 3.3, "ppe4": 2.3, "ppe8": 4.0}
_new = [data_set(name, share, "${dataset.everyday}") for name, share in _whole.items()]
_new += [data_set(name, share, "${dataset.everyday}", are_parts=True) for name, share in _worn.items()]
_sets.extend(_new)
train.update(max_iter=4000, output_dir="output/lite/everyday")

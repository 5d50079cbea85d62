"""ovdet-lite: a closed-set expert has a say in COCO's 80 names, so training dwells on the other sets' names.

ovdet train --config-file lite/ovdet_lite_expert dataset.root=PATH dataset.more=SETS dataset.labels=LABELS
    dataset.nanodet=FOLDER train.init_checkpoint=output/lite/pseudo/model_final.pth
The expert is not trained, and asked at test time alone (ovdet/modeling/expert.py): FOLDER holds coco.param and
coco.bin, ncnn's files of NanoDet-Plus-m. Requirements and figures: configs/README.md.
"""

from ..common.components import closed_set_expert
from .ovdet_lite_pseudo import dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train

dataset.update(name="lite_expert", nanodet="${.root}/nanodet")
_shares = {"coco": 28, "voc2007": 12, "animal_pose": 4, "clothing_ccp": 24, "food_nutrigo": 18, "car_parts": 5}
for _set in dataloader.train.dataset.names.sets:
    _set.share = _shares.get(_set.name, 2 * _set.share)
model = closed_set_expert(model, "${dataset.nanodet}")
train.update(max_iter=1700, output_dir="output/lite/expert")

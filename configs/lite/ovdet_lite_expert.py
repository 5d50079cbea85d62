"""ovdet-lite: the mixture with pseudo-labels; at test time a closed-set expert has a say in COCO's 80 names.

ovdet train --config-file lite/ovdet_lite_expert dataset.root=PATH dataset.more=SETS dataset.labels=LABELS
    dataset.nanodet=FOLDER train.init_checkpoint=output/lite/mixture/model_final.pth
The expert is not trained (ovdet/modeling/expert.py): FOLDER holds coco.param and coco.bin, ncnn's files of
NanoDet-Plus-m. Requirements and figures: configs/README.md.
"""

from ..common.components import closed_set_expert
from .ovdet_lite_pseudo import dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train

dataset.update(name="lite_expert", nanodet="${.root}/nanodet")
model = closed_set_expert(model, "${dataset.nanodet}")
train.output_dir = "output/lite/expert"

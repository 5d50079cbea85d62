"""Transfer to Objects365 v1 val (arXiv:2104.13921): ViLD-ensemble as trained on OV-LVIS, names swapped.

tools/train_net.py --config-file configs/transfer/objects365_v1.py --eval-only dataset.root=PATH train.init_checkpoint=W
Hardware: 1 GPU. Expected: box AP / AP50 11.8 / 18.2 in the paper (ViLD). Here: not yet run.
W are the weights of configs/ov_lvis/vild_ensemble.py; PATH holds objects365_v1/ (datasets/prepare_objects365.py).
"""

from .voc import dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train

dataloader.test.dataset.names.name = "objects365_v1_val"
train.output_dir = "output/transfer/objects365_v1"

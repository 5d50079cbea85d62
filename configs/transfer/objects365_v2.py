"""Transfer to Objects365 v2 val (arXiv:2104.13921): ViLD-ensemble as trained on OV-LVIS, names swapped.

tools/train_net.py --config-file configs/transfer/objects365_v2.py --eval-only dataset.root=PATH train.init_checkpoint=W
Hardware: 1 GPU. Expected: no figure in the paper. Here: not yet run.
W are the weights of configs/ov_lvis/vild_ensemble.py; PATH holds objects365_v2/ (datasets/prepare_objects365.py).
"""

from .voc import dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train

dataloader.test.dataset.names.name = "objects365_v2_val"
train.output_dir = "output/transfer/objects365_v2"

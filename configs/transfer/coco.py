"""Transfer to COCO val2017, all 80 classes (arXiv:2104.13921): ViLD-ensemble as trained on OV-LVIS, names swapped.

tools/train_net.py --config-file configs/transfer/coco.py --eval-only dataset.root=PATH train.init_checkpoint=W
Hardware: 1 GPU. Expected: box AP / AP50 36.6 / 55.6 in the paper (ViLD). Here: not yet run.
W are the weights of configs/ov_lvis/vild_ensemble.py; PATH holds coco/.
"""

from .voc import dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train

dataloader.test.dataset.names.name = "coco80_2017_val"
train.output_dir = "output/transfer/coco"

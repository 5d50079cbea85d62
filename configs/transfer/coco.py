"""Transfer to COCO val2017, 80 classes: ViLD-ensemble trained on OV-LVIS (arXiv:2104.13921).

ovdet train --config-file transfer/coco --eval-only dataset.root=PATH train.init_checkpoint=W
Requirements and figures: configs/README.md.
"""

from .voc import dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train

dataloader.test.dataset.names.name = "coco80_2017_val"
train.output_dir = "output/transfer/coco"

"""Transfer to Objects365 v1 val: ViLD-ensemble trained on OV-LVIS (arXiv:2104.13921).

ovdet train --config-file transfer/objects365_v1 --eval-only dataset.root=PATH train.init_checkpoint=W
Requirements and figures: configs/README.md.
"""

from .voc import dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train

dataloader.test.dataset.names.name = "objects365_v1_val"
train.output_dir = "output/transfer/objects365_v1"

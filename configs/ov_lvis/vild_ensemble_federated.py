"""ViLD-ensemble on OV-LVIS v1, sigmoid scores and LVIS's federated loss (arXiv:2104.13921, 2201.02605).

ovdet train --config-file ov_lvis/vild_ensemble_federated --num-gpus 8 dataset.root=PATH
Requirements and figures: configs/README.md.
"""

from ..common.federated import federated
from .vild_ensemble import dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train

model = federated(model)
train.output_dir = "output/ov_lvis/vild_ensemble_federated"

"""ViLD-ensemble on OV-LVIS v1 with sigmoid scores and LVIS's federated loss (arXiv:2201.02605).

tools/train_net.py --config-file configs/ov_lvis/vild_ensemble_federated.py --num-gpus 8 dataset.root=PATH
Hardware: 32 GPUs; each of 4 machines adds --num-machines 4 --machine-rank R --dist-url tcp://HOST:PORT.
Expected: no figure in the paper. Here: not yet run.
The teacher's regions come from a store: dataset.region_store=STORE.
"""

from ..common.federated import federated
from .vild_ensemble import dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train

model = federated(model)
train.output_dir = "output/ov_lvis/vild_ensemble_federated"

"""ViLD-text on OV-LVIS v1 with sigmoid scores and LVIS's federated loss (arXiv:2201.02605).

tools/train_net.py --config-file configs/ov_lvis/vild_text_federated.py --num-gpus 8 dataset.root=PATH
Hardware: 32 GPUs; each of 4 machines adds --num-machines 4 --machine-rank R --dist-url tcp://HOST:PORT.
Expected: no figure in the paper; a like baseline of 12 epochs has mask APr / APc / APf / AP 12.2 / 19.4 / 26.4 / 20.9
(hanoonaR/object-centric-ovd). Here: not yet run.
"""

from ..common.federated import federated
from .vild_text import dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train

model = federated(model)
train.output_dir = "output/ov_lvis/vild_text_federated"

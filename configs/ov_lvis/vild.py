"""ViLD (arXiv:2104.13921) on OV-LVIS v1: text classification and distillation in one head.

tools/train_net.py --config-file configs/ov_lvis/vild.py --num-gpus 8 dataset.root=PATH
Hardware: 32 GPUs; each of 4 machines adds --num-machines 4 --machine-rank R --dist-url tcp://HOST:PORT.
Expected: mask APr / APc / APf / AP 16.1 / 20.0 / 28.3 / 22.5 in the paper. Here: not yet run.
The teacher's regions come from a store: dataset.region_store=STORE.
"""

from ..common.methods import stored_regions, vild
from .vild_text import dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train

model = stored_regions(vild(model), dataloader)
train.output_dir = "output/ov_lvis/vild"

"""ViLD-ensemble (arXiv:2104.13921) on OV-LVIS v1: a second head is distilled, scores are fused.

tools/train_net.py --config-file configs/ov_lvis/vild_ensemble.py --num-gpus 8 dataset.root=PATH
Hardware: 32 GPUs; each of 4 machines adds --num-machines 4 --machine-rank R --dist-url tcp://HOST:PORT.
Expected: mask APr / APc / APf / AP 16.6 / 24.6 / 30.3 / 25.5 in the paper. Here: not yet run.
The teacher's regions come from a store: dataset.region_store=STORE.
"""

from ..common.methods import stored_regions, vild_ensemble
from .vild_text import dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train

model = stored_regions(vild_ensemble(model), dataloader)
train.output_dir = "output/ov_lvis/vild_ensemble"

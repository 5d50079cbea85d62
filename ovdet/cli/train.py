"""Train or evaluate a detector from a config, on detectron2's engine.

ovdet train --config-file quick/vild
ovdet train --config-file lite/vild dataset.root=PATH train.output_dir=output/lite_vild
ovdet train --config-file lite/vild --eval-only dataset.root=PATH train.init_checkpoint=W.pth
torchrun --nproc-per-node 2 --max-restarts 3 -m ovdet train --config-file lite/vild dataset.root=PATH
"""

from __future__ import annotations

import argparse
import os

from ovdet.cli.arguments import add_config_argument

TIMEOUT = 30.0  # minutes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of detectron2's `default_argument_parser`, and --timeout."""
    add = parser.add_argument
    add_config_argument(parser, "of detector, data and schedule", default="")
    add("--resume", action="store_true", help="continue from the last checkpoint in train.output_dir")
    add("--eval-only", action="store_true", help="evaluate, do not train")
    add("--num-gpus", type=int, default=1, metavar="N", help="of each machine (default: 1)")
    add("--num-machines", type=int, default=1, metavar="N", help="of all together (default: 1)")
    add("--machine-rank", type=int, default=0, metavar="R", help="number of this machine, from 0 on (default: 0)")
    port = 2**15 + 2**14 + hash(os.getuid() if hasattr(os, "getuid") else 1) % 2**14  # the same for all runs of a user
    where = "where the processes meet (default: a port of this machine)"
    add("--dist-url", default=f"tcp://127.0.0.1:{port}", metavar="URL", help=where)
    waits = "minutes that a process waits for the others before the run ends (default: %(default)s)"
    add("--timeout", type=float, default=TIMEOUT, metavar="MINUTES", help=waits)
    what = "overrides of the config: train.max_iter=100 dataset.root=PATH"
    add("opts", nargs="*", metavar="key=value", help=what)


def run(arguments: argparse.Namespace) -> int:
    from ovdet.cli.launch import launch_training

    return launch_training(arguments)

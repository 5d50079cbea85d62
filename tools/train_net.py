"""Train or evaluate a detector from a config, on detectron2's engine.

tools/train_net.py --config-file configs/lite/vild.py dataset.root=PATH train.output_dir=output/lite_vild
tools/train_net.py --config-file configs/lite/vild.py --eval-only dataset.root=PATH train.init_checkpoint=W.pth
"""

from __future__ import annotations

import argparse
import sys

import torch
from detectron2.engine import default_argument_parser, default_setup, launch
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from torch.multiprocessing import ProcessExitedException

from ovdet.engine.config import load_config
from ovdet.engine.train import check_files, do_train, prepare_output
from ovdet.errors import InputError, command
from ovdet.inference.evaluate import evaluate_config


def parse_arguments() -> argparse.Namespace:
    parser = default_argument_parser(epilog=__doc__)
    for action in parser._actions:
        if action.dest == "opts":
            action.help = "overrides of the config, as key=value: train.max_iter=100 dataset.root=PATH"
            action.metavar, action.nargs, action.default = "key=value", "*", []
        if action.dest == "resume":
            action.help = "continue from the last checkpoint in train.output_dir"
    return parser.parse_intermixed_args()


@command
def run(arguments: argparse.Namespace) -> None:
    """Train or evaluate in one process."""
    config = load_config(arguments.config_file, arguments.opts)
    if not arguments.eval_only:
        check_files(config, resume=arguments.resume)
    prepare_output(config)
    if arguments.eval_only:
        named = any(option.startswith("train.init_checkpoint=") for option in arguments.opts)
        evaluate_config(config, config.train.init_checkpoint if named else "")
        return
    default_setup(config, arguments)
    setup_logger(config.train.output_dir, distributed_rank=comm.get_rank(), name="ovdet")
    do_train(config, resume=arguments.resume)


def check_machines(arguments: argparse.Namespace) -> None:
    """Refuse numbers of GPUs and machines that `launch` would fail on or wait for."""
    gpus = max(torch.cuda.device_count(), 1)
    if not arguments.config_file:
        raise InputError("expected --config-file FILE, such as configs/quick/vild.py, got none")
    if arguments.num_gpus > gpus:
        raise InputError(f"expected --num-gpus of at most {gpus} here, got {arguments.num_gpus}")
    if arguments.num_machines > 1 and "127.0.0.1" in arguments.dist_url:
        raise InputError(f"expected --dist-url tcp://HOST:PORT of machine 0 for {arguments.num_machines} machines")


@command
def main() -> None:
    arguments = parse_arguments()
    check_machines(arguments)
    machines = dict(num_machines=arguments.num_machines, machine_rank=arguments.machine_rank)
    try:
        launch(run, arguments.num_gpus, **machines, dist_url=arguments.dist_url, args=(arguments,))
    except ProcessExitedException as error:  # the process has said why
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()

"""`ovdet train` in one process, in several on one machine, or under torchrun."""

from __future__ import annotations

import argparse
import logging
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from detectron2.engine import launch
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig
from torch.multiprocessing import ProcessExitedException

from ovdet.engine.config import load_config, read_run_values
from ovdet.engine.options import build_options
from ovdet.engine.resume import restarted
from ovdet.engine.train import check_files, do_train
from ovdet.errors import InputError, command, end_of_process, first_line
from ovdet.files import new_folder
from ovdet.hub.find import weights_file
from ovdet.inference.evaluate import evaluate_config

_SILENCE = re.compile("timed? ?out|connection (closed|reset)", re.IGNORECASE)  # of gloo and NCCL
_LONGEST_TIMEOUT = 1_000_000  # minutes
_LOGS = "log.txt*"  # one a process


def launch_training(arguments: argparse.Namespace) -> int:
    """Start the processes that a command line asks for, and wait for them.

    Returns:
        The exit code; where one process failed, see `end_of_process`.

    Raises:
        InputError: numbers of GPUs or machines that are not there, or as of `train_process`.
    """
    check_machines(arguments)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        with joined_by_torchrun(arguments.timeout):
            train_process(arguments)
        return 0
    timeout = timedelta(minutes=arguments.timeout)
    machines = dict(num_machines=arguments.num_machines, machine_rank=arguments.machine_rank)
    common = dict(dist_url=arguments.dist_url, args=(arguments,), timeout=timeout)
    try:
        launch(train_process, arguments.num_gpus, **machines, **common)
    except ProcessExitedException as error:
        return end_of_process(error)
    return 0


@command
def train_process(arguments: argparse.Namespace) -> None:
    """Train or evaluate in one process."""
    config = load_config(arguments.config_file, arguments.opts)
    config.train.init_checkpoint = weights_file(config.train.get("init_checkpoint", ""))
    if arguments.eval_only:
        evaluate_config(config, weights_to_evaluate(config, arguments.opts))
        return
    resume = arguments.resume or restarted(config.train.output_dir)  # torchrun says the same words again
    check_files(config, resume=resume)
    build_options(config)
    with new_folder(config.train.output_dir), logged(config.train.output_dir):
        logging.getLogger("ovdet").info("%s\n%s", arguments, environment_report())
        try:
            do_train(config, resume=resume)
        except RuntimeError as error:
            if dist.is_initialized() and _SILENCE.search(str(error)):
                waited = f"within --timeout {arguments.timeout:g} minutes"
                told = f"expected all processes to answer {waited}, one did not: {first_line(error)}"
                raise InputError(told) from error
            raise


def environment_report() -> str:
    """detectron2's table of versions; its shell complains of no missing C++ compiler, which nothing here needs."""
    given = os.environ.get("CXX")
    if shutil.which(given or "c++") is None:
        os.environ["CXX"] = "false"  # a program that fails and says nothing
    try:
        return collect_env_info()
    finally:
        if given is None:
            os.environ.pop("CXX", None)
        else:
            os.environ["CXX"] = given


@contextmanager
def logged(folder: str) -> Iterator[None]:
    """Log to the console and to log.txt of a folder; of a run that is refused before it has begun no log stays."""
    before = set(Path(folder).glob(_LOGS))
    for name in ("fvcore", "detectron2", "ovdet"):
        setup_logger(folder, distributed_rank=comm.get_rank(), name=name)
    try:
        yield
    except InputError:
        if not Path(folder, "config.yaml").exists():
            for file in set(Path(folder).glob(_LOGS)) - before:
                file.unlink(missing_ok=True)
        raise


def weights_to_evaluate(config: DictConfig, overrides: Sequence[str]) -> str:
    """The checkpoint that --eval-only is about: train.init_checkpoint where it is given, else the run's last one ("").

    With the words of a training command they are the weights that the run began with: then it is the last one, too.
    """
    file, given = Path(config.train.output_dir, "config.yaml"), config.train.get("init_checkpoint", "")
    if not any(option.startswith("train.init_checkpoint=") for option in overrides):
        return ""
    if file.is_file() and read_run_values(file).get("train", {}).get("init_checkpoint") == given:
        print(f"{config.train.output_dir} began with {given}: its last checkpoint is evaluated", file=sys.stderr)
        return ""
    return given


def check_machines(arguments: argparse.Namespace) -> None:
    """Refuse numbers of GPUs, machines and minutes that `launch` would fail on or wait for."""
    gpus = max(torch.cuda.device_count(), 1)
    if not arguments.config_file:
        raise InputError("expected --config-file FILE, such as configs/quick/vild.py, got none")
    if arguments.num_gpus > gpus:
        raise InputError(f"expected --num-gpus of at most {gpus} here, got {arguments.num_gpus}")
    if not 0 < arguments.timeout <= _LONGEST_TIMEOUT:
        raise InputError(f"expected --timeout of {_LONGEST_TIMEOUT:,} minutes at most, got {arguments.timeout}")
    if arguments.num_machines > 1 and "127.0.0.1" in arguments.dist_url:
        raise InputError(f"expected --dist-url tcp://HOST:PORT of machine 0 for {arguments.num_machines} machines")


@contextmanager
def joined_by_torchrun(timeout: float) -> Iterator[None]:
    """The processes of `torchrun --nproc-per-node N` as detectron2's launcher would join them.

    Raises:
        InputError: one did not answer for `timeout` minutes.
    """
    rank = int(os.environ["LOCAL_RANK"])
    if torch.cuda.is_available():
        torch.cuda.set_device(rank)
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=timedelta(minutes=timeout))
    comm.create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))
    try:
        yield
    finally:
        dist.destroy_process_group()

"""The options of a training run, as a dataclass: a plain LazyConfig dict would accept misspelled keys."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from detectron2.config import instantiate
from omegaconf import DictConfig

from ovdet.device import choose_device
from ovdet.errors import InputError


@dataclass
class TrainOptions:
    """The options of a config's `train = L(TrainOptions)(...)`.

    Attributes:
        output_dir: checkpoints, logs, metrics and the resolved config go here.
        init_checkpoint: weights to begin with: .pth, .safetensors, or a backbone's .pkl or URL of detectron2; "" none.
            ovdet train also takes a model as `hub.find.find_model` does.
        init_parts: what to take of init_checkpoint, parts of the model, commas between; "" all that fits.
        freeze: parts of the model that keep their initial weights, commas between: "backbone,proposal_generator".
        max_iter: training steps.
        device: "auto" takes a GPU where there is one; else any torch device.
        amp: mixed precision; bfloat16 on CPUs and where the GPU has it, else float16 with loss scaling.
        seed: of everything random; -1 draws one.
        clip_gradient_norm: 0 for none.
        checkpoint_period: steps between checkpoints.
        max_checkpoints: how many are kept.
        eval_period: steps between evaluations; 0 for the end only.
        log_period: steps between log lines.
        show_period: steps between pictures of proposals and predictions in TensorBoard; 0 for none.
    """

    output_dir: str = "output"
    init_checkpoint: str = ""
    init_parts: str = ""
    freeze: str = ""
    max_iter: int = 90000
    device: str = "auto"
    amp: bool = False
    seed: int = 0
    clip_gradient_norm: float = 0.0
    checkpoint_period: int = 5000
    max_checkpoints: int = 3
    eval_period: int = 0
    log_period: int = 20
    show_period: int = 1000

    def __post_init__(self) -> None:
        for field in fields(self):
            kind = type(field.default)
            value = getattr(self, field.name)
            if type(value) is not kind and not (kind is float and type(value) is int):
                raise InputError(f"expected train.{field.name} to be {_KINDS[kind]}, got {value!r}")
        for name in ("max_iter", "checkpoint_period", "log_period", "max_checkpoints"):
            if getattr(self, name) < 1:
                raise InputError(f"expected train.{name} of at least 1, got {getattr(self, name)}")

    def torch_device(self) -> torch.device:
        """The device of this run.

        Raises:
            InputError: a GPU is asked for where torch sees none.
        """
        return choose_device(self.device)


_KINDS = {str: "text", int: "a whole number", bool: "true or false", float: "a number"}


def build_options(config: DictConfig) -> TrainOptions:
    """`config.train` as TrainOptions.

    Raises:
        InputError: an option that TrainOptions does not have, or a value it refuses.
    """
    try:
        return instantiate(config.train)
    except TypeError as error:
        raise InputError(f"expected the options of TrainOptions under `train`, got {error}") from error

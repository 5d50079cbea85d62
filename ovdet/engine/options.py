"""The options of a training run. A dataclass, because a typo in a plain LazyConfig dict is kept without a word."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ovdet.errors import InputError


@dataclass
class TrainOptions:
    """What `train = L(TrainOptions)(...)` of a config may say.

    Attributes:
        output_dir: checkpoints, logs, metrics and the resolved config go here.
        init_checkpoint: weights to begin with (.pth, .safetensors, or a detectron2 .pkl / URL); "" for none.
        max_iter: training steps.
        device: "auto" takes a GPU where there is one; else any torch device.
        amp: mixed precision; bfloat16 on CPUs and where the GPU has it, else float16 with loss scaling.
        seed: of everything random; -1 draws one.
        clip_gradient_norm: 0 for none.
        checkpoint_period: steps between checkpoints.
        max_checkpoints: how many are kept.
        eval_period: steps between evaluations; 0 for the end only.
        log_period: steps between log lines.
    """

    output_dir: str = "output"
    init_checkpoint: str = ""
    max_iter: int = 90000
    device: str = "auto"
    amp: bool = False
    seed: int = 0
    clip_gradient_norm: float = 0.0
    checkpoint_period: int = 5000
    max_checkpoints: int = 3
    eval_period: int = 0
    log_period: int = 20

    def __post_init__(self) -> None:
        if self.max_iter < 1 or self.checkpoint_period < 1 or self.log_period < 1:
            raise InputError(
                "expected train.max_iter, train.checkpoint_period and train.log_period of at least 1, "
                f"got {self.max_iter}, {self.checkpoint_period}, {self.log_period}"
            )

    def torch_device(self) -> torch.device:
        """The device of this run.

        Raises:
            InputError: a GPU is asked for where torch sees none.
        """
        return choose_device(self.device)


def choose_device(name: str = "auto") -> torch.device:
    """ "auto" -> a GPU where there is one, else the CPU; anything else as torch reads it.

    Raises:
        InputError: not a device, or a GPU is asked for where torch sees none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"expected a torch device such as cpu or cuda:0, got {name!r}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"expected device cpu (torch sees no GPU here), got {name!r}")
    return device

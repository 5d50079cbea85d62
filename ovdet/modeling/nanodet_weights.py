"""NanoDet-Plus-m's weights from ncnn's files: coco.param, which lists the layers, and coco.bin, their numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ovdet.errors import InputError
from ovdet.modeling.expert import names_and_synonyms

_HALF = 0x01306B47  # ncnn's mark of 16-bit floats
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # NanoDet's, as RGB; its network wants BGR


class Convolution(NamedTuple):
    """One of ncnn's convolutions: weight (C', C / groups, k, k), bias (C')."""

    weight: Tensor
    bias: Tensor


def read_ncnn(param: str, weights: str) -> Iterator[Convolution]:
    """The convolutions of an ncnn model, in the order of its list.

    Raises:
        InputError: a file is missing, is none of ncnn's, or they do not fit each other.
    """
    for path in (param, weights):
        if not Path(path).is_file():
            raise InputError(f"expected a file of ncnn's, {path} does not exist")
    numbers, start = Path(weights).read_bytes(), 0
    lines = Path(param).read_text(errors="replace").splitlines()
    if lines[:1] != ["7767517"]:
        raise InputError(f"expected ncnn's list of layers, {param} does not begin with 7767517")

    def take(count: int, dtype: str) -> Tensor:
        nonlocal start
        size = count * np.dtype(dtype).itemsize
        if start + size > len(numbers):
            raise InputError(f"expected the weights of {param}, {weights} ends before them")
        values = np.frombuffer(numbers, dtype, count, start)
        start += -(-size // 4) * 4
        return torch.from_numpy(values.astype(np.int64 if dtype == "<u4" else np.float32))

    for line in lines[2:]:
        if not line.startswith("Convolution"):
            continue
        facts = dict(entry.split("=", 1) for entry in line.split() if "=" in entry)
        outside, kernel, count = (int(facts[key]) if facts.get(key, "").isdecimal() else 0 for key in ("0", "1", "6"))
        if not outside * kernel or count % (outside * kernel**2):
            raise InputError(f"expected the sizes of a convolution in {param}, got {line[:100]!r}")
        mark = int(take(1, "<u4"))
        weight = take(count, "<f2" if mark == _HALF else "<f4")
        yield Convolution(weight.reshape(outside, -1, kernel, kernel), take(outside, "<f4"))
    if start != len(numbers):
        raise InputError(f"expected the weights of {param}, {weights} has {len(numbers) - start} bytes more")


def load_nanodet_backbone(param: str, weights: str, mean: Sequence[float], std: Sequence[float]) -> dict[str, Tensor]:
    """A state dict for NanoDetBackbone.

    Args:
        param: ncnn's list of NanoDet-Plus-m's layers, the same for both sizes of input.
        weights: their numbers.
        mean: of the RGB input that the network will get, of pixels from 0 to 255.
        std: likewise; NanoDet's own mean and std are folded into the first layer.

    Raises:
        InputError: files of another model.
    """
    state = _state(param, weights)
    weight = state["stem.0.0.weight"].flip(1)  # from BGR
    scale = torch.tensor(std) / torch.tensor(STD)
    shift = (torch.tensor(mean) - torch.tensor(MEAN)) / torch.tensor(STD)
    state["stem.0.0.bias"] = state["stem.0.0.bias"] + (weight * shift[:, None, None]).sum((1, 2, 3))
    state["stem.0.0.weight"] = weight * scale[:, None, None]
    return {key: value for key, value in state.items() if not key.startswith("heads.")}


def load_nanodet_expert(
    param: str, weights: str, names: Sequence[str], embed_names: Callable[[Sequence[str]], Tensor]
) -> dict[str, Tensor]:
    """A state dict for ClosedSetExpert: the last layers, which say classes and boxes, and what the classes are called.

    Args:
        param: as of load_nanodet_backbone.
        weights: likewise.
        names: of the classes, see ClosedSetExpert.
        embed_names: names -> embeddings (J, D).

    Raises:
        InputError: files of another model.
    """
    heads = {key: value for key, value in _state(param, weights).items() if key.startswith("heads.")}
    return {**heads, "rows": embed_names(sum(names_and_synonyms(names), []))}


def _state(param: str, weights: str) -> dict[str, Tensor]:
    convolutions, names = list(read_ncnn(param, weights)), list(layer_names())
    if len(convolutions) != len(names):
        raise InputError(f"expected NanoDet-Plus-m's {len(names)} convolutions, {param} lists {len(convolutions)}")
    state: dict[str, Tensor] = {}
    for name, layer in zip(names, convolutions, strict=True):
        state[f"{name}.weight"], state[f"{name}.bias"] = layer
    return state


def layer_names() -> Iterator[str]:
    """The layers in the order of ncnn's list."""
    yield "stem.0.0"
    for stage, units in enumerate((4, 8, 4)):
        unit = f"stages.{stage}.0"
        yield from (f"{unit}.first.0", f"{unit}.second.0", f"{unit}.second.2", f"{unit}.first.1", f"{unit}.second.3")
        for place in range(1, units):
            yield from (f"stages.{stage}.{place}.branch.{layer}" for layer in (0, 2, 3))
    yield from ("reduce.2.0", "reduce.1.0")
    yield from _ghost_names("top_down.1")
    yield "reduce.0.0"
    yield from _ghost_names("top_down.0")
    for level in range(2):
        yield from (f"down.{level}.0", f"down.{level}.2")
        yield from _ghost_names(f"bottom_up.{level}")
    for part in ("extra_before", "extra_after"):
        yield from (f"{part}.0", f"{part}.2")
    for level in range(4):
        yield from (f"towers.{level}.0", f"towers.{level}.2")
    for level in (3, 2, 1, 0):
        yield from (f"towers.{level}.4", f"towers.{level}.6", f"heads.{level}")


def _ghost_names(block: str) -> Iterator[str]:
    layers = ("wide.0", "wide_cheap.0", "narrow", "narrow_cheap", "shortcut.0", "shortcut.1")
    yield from (f"{block}.{layer}" for layer in layers)

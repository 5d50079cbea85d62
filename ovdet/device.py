"""Devices by name."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ovdet.errors import InputError
from ovdet.packable import packable

# OpenMP's threads are not there in a fork of a process that has computed: with more than one it would wait for ever
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


@packable
def choose_device(name: str = "auto") -> torch.device:
    """ "auto" -> a GPU where there is one, else the CPU; anything else as torch reads it.

    Raises:
        InputError: not a device, or a GPU is asked for that is not there.
    """
    return parse_device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def parse_device(device: str | torch.device) -> torch.device:
    """A device that is here.

    Raises:
        InputError: not a device's name, or none that torch can compute on here.
    """
    try:
        parsed = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"expected a device such as cpu or cuda:0, got {device!r}") from error
    if parsed.type == "cuda" and not (parsed.index or 0) < (here := torch.cuda.device_count()):
        raise InputError(f"expected one of the {here} CUDA devices here{'' if here else ', or cpu'}, got {device!r}")
    if parsed.type not in ("cpu", "cuda"):  # to touch a GPU costs memory in every process that asks
        try:
            torch.zeros(1, device=parsed).item()
        except Exception as error:  # each kind of device fails in its own way
            raise InputError(f"expected a device that torch has here, such as cpu, got {device!r}") from error
    return parsed


def half_type(device: torch.device) -> torch.dtype | None:
    """The type for mixed precision: bfloat16 where the device computes in it, float16 on other GPUs, None elsewhere.

    A CPU without instructions for bfloat16 (AVX-512 BF16, AMX, Arm's BF16) emulates it: a training step then takes 27
    times as long as in float32 (torch 2.11, AVX2).
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type != "cpu":
        return torch.bfloat16
    mkldnn = getattr(torch.ops, "mkldnn", None)
    return torch.bfloat16 if mkldnn is not None and torch.ops.mkldnn._is_mkldnn_bf16_supported() else None


@contextmanager
def float32_by_default() -> Iterator[None]:
    """torch's default dtype as float32 for a `with` block, whatever the program has set: detectors are built for it.

    Blocks of several threads may overlap; the last one to end puts back what was set before the first.
    """
    with _default.lock:
        if _default.users == 0:
            _default.before = torch.get_default_dtype()
            torch.set_default_dtype(torch.float32)
        _default.users += 1
    try:
        yield
    finally:
        with _default.lock:
            _default.users -= 1
            if _default.users == 0:
                torch.set_default_dtype(_default.before)


class _Default:
    """The default number type: how many need float32 now, and what was set before."""

    lock = threading.Lock()
    users = 0
    before = torch.float32


_default = _Default()

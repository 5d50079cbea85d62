"""Faster ways to run a trained detector.

Shape letters: N images, H, W of the network's input, C channels, S the backbone's size_divisibility.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import platform
import time
from collections.abc import Callable
from functools import cache, cached_property

import torch
from torch import Tensor, nn

from ovdet.cache import cache_folder
from ovdet.device import half_type
from ovdet.errors import InputError, error_summary
from ovdet.files import atomic_write
from ovdet.modeling.cuda_graphs import CudaGraph, GraphedDetector
from ovdet.modeling.fixed_shapes import why_not_fixed
from ovdet.modeling.packed_layers import pack_layers, use_8_bits
from ovdet.modeling.tracing import with_fixed_shapes

logger = logging.getLogger(__name__)

_WORTH_IT = 0.7  # of the time in float32, from which on bfloat16 is chosen
_WORTH_8_BITS = 0.8  # of the time without, for a layer; a photo gains less


def speed_up(detector: nn.Module, *, compile: bool = False, half: bool | None = False, int8: bool = False) -> nn.Module:
    """Make a detector run faster from now on; on CPUs its layers are packed, see packed_layers.py.

    Args:
        detector: with its weights, in evaluation mode, on the device where it is to run. It is altered; its parameters
            and the keys of its state dict are not.
        compile: run backbone and pyramid through `torch.compile`. The first photo then takes a minute or more, and
            detections are the same. Where there is no compiler, a line says so in the log and nothing changes. On
            CUDA, where the detector allows it (see `why_not_fixed`), all of it as CUDA graphs instead, each recorded at
            the second batch of its size.
        half: mixed precision: bfloat16, or float16 on GPUs without it; not on CPUs that compute neither (see
            half_type). Detections differ a little; scores are still computed in float32. None: on CPUs where it is
            faster, measured once.
        int8: the layers between backbone and scores in 8 bits, see `use_8_bits`; only on CPUs where that is right and
            faster, measured once. Detections differ a little more.

    Returns:
        The same detector.

    Raises:
        InputError: it has no backbone to compile.
    """
    device = next(detector.parameters()).device
    if device.type == "cpu":
        pack_layers(detector)
    as_graphs = compile and device.type == "cuda" and not why_not_fixed(detector)
    if compile and not as_graphs:
        _compile_backbone(detector)
    if half is None:
        half = device.type == "cpu" and is_bfloat16_faster()
    dtype = half_type(device) if half else None
    if int8 and not (device.type == "cpu" and are_8_bits_faster(dtype is not None) and use_8_bits(detector)):
        logger.warning("8 bits: no faster for this detector on this %s, going on without them", device.type)
    if half and dtype is None:
        logger.warning("half precision: this %s computes it slowly, going on in float32", device.type)
    if dtype is not None:
        for name in ("forward", "embed_images", "score_images"):  # other detectors have the first alone
            if hasattr(detector, name):
                setattr(detector, name, torch.autocast(device.type, dtype)(getattr(detector, name)))
    if as_graphs:
        detector.forward = GraphedDetector(detector, record=CudaGraph(device), dtype=dtype)
    return detector


def _compile_backbone(detector: nn.Module) -> None:
    if not hasattr(detector, "backbone"):
        raise InputError(f"expected a detector with a backbone to compile, got {type(detector).__name__}")
    detector.backbone.forward = CompiledBackbone(detector.backbone)


@cache
def is_bfloat16_faster() -> bool:
    """Whether this CPU runs a packed linear layer in bfloat16 so much faster that it pays.

    Measured in 20 ms, once for a machine and a version of torch: the answer is kept in the user's cache folder, so that
    each run gets the same precision.
    """
    if half_type(torch.device("cpu")) is not torch.bfloat16:
        return False
    return _measured_once("bfloat16", _measure_bfloat16)


@cache
def are_8_bits_faster(half: bool) -> bool:
    """Whether this CPU runs a packed linear layer in 8 bits right, and so much faster that it pays.

    Without VNNI's instructions sums of products of 8 bits overflow.

    Args:
        half: whether without them it would be bfloat16.
    """
    return _measured_once(f"int8-{'bfloat16' if half else 'float32'}", lambda: _measure_8_bits(half))


def _measured_once(what: str, measure: Callable[[], bool]) -> bool:
    machine = f"{platform.node()} {torch.backends.cpu.get_cpu_capability()} {torch.__version__}"
    kept = cache_folder() / f"{what}-{hashlib.sha256(machine.encode()).hexdigest()[:16]}"
    with contextlib.suppress(OSError):
        return kept.read_bytes() == b"faster"
    is_faster = measure()
    with contextlib.suppress(InputError):  # a cache that cannot be written to is no fault
        atomic_write(kept, b"faster" if is_faster else b"slower")
    return is_faster


def _measure_bfloat16() -> bool:
    layer, x = nn.Linear(1024, 1024), torch.zeros(200, 1024)
    if not pack_layers(layer):
        return False
    ratio = _ratio(lambda is_half: _run(layer, x, is_half))
    logger.info("bfloat16 takes %.2f of the time of float32 here", ratio)
    return ratio <= _WORTH_IT


def _measure_8_bits(half: bool) -> bool:
    layers, x = [nn.Linear(1024, 1024) for _ in range(2)], torch.ones(200, 1024)
    for layer in layers:
        nn.init.constant_(layer.weight, 1.0)  # the largest sums that there are
        nn.init.zeros_(layer.bias)
    if not all(map(pack_layers, layers)):
        return False
    try:
        layers[1].forward.in_8_bits = True
        found = _run(layers[1], x, half)
        ratio = _ratio(lambda are_8_bits: _run(layers[are_8_bits], x, half))
    except (AttributeError, RuntimeError) as error:  # a torch or processor without
        logger.info("8 bits: %s", error_summary(error))
        return False
    is_right = torch.allclose(found.float(), torch.tensor(1024.0), rtol=0.01)
    logger.info("8 bits take %.2f of the time without them here, and are %s", ratio, "right" if is_right else "wrong")
    return is_right and ratio <= _WORTH_8_BITS


def _ratio(run: Callable[[bool], object]) -> float:
    """The time that it takes with True, in that with False."""
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(4):  # in turns, the first to warm up; of this process, so that others beside it do not count
        for which, times in seconds.items():
            start = time.process_time()
            run(which)
            times.append(time.process_time() - start)
    return min(seconds[True][1:]) / min(seconds[False][1:])


def _run(layer: nn.Module, x: Tensor, half: bool) -> Tensor:
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=half):
        return layer(x)


class CompiledBackbone:
    """A backbone's forward, compiled at its first call and for all sizes; as it was where compiling fails."""

    def __init__(self, backbone: nn.Module) -> None:
        """
        Args:
            backbone: detectron2's kind, with its weights; the sides of its inputs are multiples of size_divisibility.
        """
        self._eager = backbone.forward
        self._step = max(backbone.size_divisibility, 1)
        self._fixed = with_fixed_shapes(backbone)
        self._failed = False

    @cached_property
    def _compiled(self) -> Callable[[Tensor], dict[str, Tensor]]:
        return torch.compile(self._join_and_run, dynamic=True)

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) -> maps (N, C, H / stride, W / stride) by name."""
        if self._failed:
            return self._eager(images)
        try:
            # (N, 3, H / S, S, W / S, S), so that the compiler knows both sides as multiples of S. Of the sides of maps
            # it would else know only how they are computed, which grows with every layer until it takes minutes.
            return self._compiled(images.unflatten(3, (-1, self._step)).unflatten(2, (-1, self._step)))
        except Exception as error:  # no compiler, one that fails, no room for it: there is no list of what may come
            logger.warning("torch.compile failed, going on without it: %s", error_summary(error))
            self._failed = True
            return self._eager(images)

    def _join_and_run(self, images: Tensor) -> dict[str, Tensor]:
        """(N, 3, H / S, S, W / S, S) -> maps."""
        return self._fixed(images.flatten(4, 5).flatten(2, 3))

"""Convolutions and linear layers as CPUs run them fastest: weights packed once for oneDNN, norm and activation fused.

torch lays weights out anew at each call, picks slow convolutions on one thread, and goes through each map once more for
its activation. Here the layers keep their parameters and names; what changes is how they run at test time on CPUs.
Under autocast they are packed in its type.

Dense layers behind the backbone can compute in 8 bits (`use_8_bits`): weights by output channel, inputs by the range
that each has when it comes, so nothing is calibrated beforehand.

Shape letters: N images, R regions, C channels, P pooled side, F features.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from copy import copy, deepcopy
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from timm.layers import pad_same
from torch import Tensor, nn

from ovdet.imagenet_lite import fold_padding, same_padding
from ovdet.modeling.backbones.same_padding import EvenConv2dSame
from ovdet.modeling.backbones.timm_backbone import TimmBackbone

_ROWS = 200  # that weights of linear layers are laid out for; any number runs on them
_NONE = ("none", [])
_ACTIVATIONS = {  # oneDNN's names and numbers
    nn.ReLU: lambda _: ("relu", []),
    nn.ReLU6: lambda _: ("hardtanh", [0.0, 6.0]),
    nn.LeakyReLU: lambda layer: ("leaky_relu", [layer.negative_slope]),
}

_LEAST_PRODUCTS = 512  # of each value of an input, from which on they outweigh the pass that brings it to 8 bits

Pack = tuple[Tensor | None, ...]  # weight, bias; in 8 bits weight, scales, zero points, bias


def pack_layers(detector: nn.Module) -> bool:
    """Let a detector's layers run packed at test time, in place; parameters and the keys of its state dict stay.

    A layer runs as before where gradients are asked for, on other devices, and while it is compiled or exported.
    Weights that are altered afterwards are packed anew.

    Args:
        detector: any network; layers that oneDNN has no like of are left alone.

    Returns:
        Whether this torch can.
    """
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    activations = dict(_layers_before(detector, tuple(_ACTIVATIONS)))
    flattenings = {layer: flatten for flatten, layer in _pairs(detector) if type(flatten) is nn.Flatten}
    for layer in list(detector.modules()):
        around = [activations.get(layer)]
        if type(layer) is nn.Linear:
            around.append(flattenings.get(layer))
            layer.forward = PackedLinear(layer, around[0], flattens=around[1] is not None)
        elif type(layer) in (nn.Conv2d, Conv2d, EvenConv2dSame) and _is_plain(layer):
            layer.forward = PackedConv2d(layer, around[0])
        else:
            continue
        for module in filter(None, around):
            module.forward = _AlreadyDone(module)
    return True


def use_8_bits(detector: nn.Module) -> int:
    """Let packed layers behind the backbone compute in 8 bits at test time, in place: the dense ones with much to do.

    What they find differs a little; the ranges of photos that go through together are common, so it depends on these
    too. The backbone's own layers gain nothing: half of their time are depthwise ones, which 8 bits do not help.

    Returns:
        How many layers; 0 of detectors of other kinds, without a backbone.
    """
    backbone = getattr(detector, "backbone", None)
    if backbone is None:
        return 0
    left_alone = set(getattr(backbone, "bottom_up", backbone).modules())
    forwards = [vars(layer).get("forward") for layer in detector.modules() if layer not in left_alone]
    chosen = [each for each in forwards if isinstance(each, _Packed) and _num_products(each.layer) >= _LEAST_PRODUCTS]
    for forward in chosen:
        forward.in_8_bits = True
    return len(chosen)


def _num_products(layer: nn.Module) -> float:
    """The number of products that each value of an input goes into, about; 0 for convolutions in groups."""
    weight = layer.weight
    if isinstance(layer, nn.Linear):
        return len(weight)
    return len(weight) * math.prod(layer.kernel_size) / math.prod(layer.stride) if layer.groups == 1 else 0


def _pairs(detector: nn.Module) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Modules of which the second alone reads what the first gives."""
    for module in detector.modules():
        if isinstance(module, nn.Sequential):
            yield from pairwise(module)
        elif isinstance(module, TimmBackbone) and module.folded_norm:
            yield from pairwise(part for part in module.body.modules() if not any(part.children()))


def _layers_before(detector: nn.Module, kinds: tuple[type, ...]) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Layers, each with the module of one of these kinds behind it."""
    for layer, behind in _pairs(detector):
        if isinstance(layer, (nn.Conv2d, nn.Linear)) and type(behind) in kinds:
            yield layer, behind


def _is_plain(layer: nn.Conv2d) -> bool:
    """Whether a convolution pads with zeros, by numbers, and detectron2's has no norm but a frozen one."""
    norm = getattr(layer, "norm", None)
    return (
        layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
        and (norm is None or type(norm) is FrozenBatchNorm2d)
    )


def _runs_packed(x: Tensor) -> bool:
    """Whether layers run packed on an input."""
    is_known = x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16) and x.numel() > 0
    return is_known and not torch.is_grad_enabled() and not torch.compiler.is_compiling()


class _EightBits(NamedTuple):
    """An input in 8 bits: value = (number - zero) * scale."""

    numbers: Tensor  # uint8
    scale: float
    zero: int


def _to_8_bits(x: Tensor) -> _EightBits | None:
    """From the range that it has, which is widened to hold 0; None for an input that is not finite."""
    x = x.float()
    low, high = (float(end) for end in x.aminmax())
    if not math.isfinite(low + high):
        return None
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max((high - low) / 255, 1e-12)
    zero = round(-low / scale)
    return _EightBits(torch.quantize_per_tensor(x, scale, zero, torch.quint8).int_repr(), scale, zero)


def _weight_to_8_bits(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(C', ...) float32 -> the same in int8, a scale and a zero point for each output channel."""
    scales = weight.flatten(1).abs().amax(1).clamp(min=1e-12) / 127
    numbers = weight.div(scales.view(-1, *[1] * (weight.dim() - 1))).round().to(torch.int8)
    return numbers.contiguous(), scales, torch.zeros(len(scales), dtype=torch.long)


class _AlreadyDone:
    """The forward of an activation or a flattening that a packed layer beside it does."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, x: Tensor) -> Tensor:
        return x if _runs_packed(x) else type(self.module).forward(self.module, x)


class _Packed:
    """The forward of a layer, which keeps its weights packed, for each dtype and layout that it met."""

    in_8_bits = False  # where an input is finite

    def __init__(self, layer: nn.Module, activation: nn.Module | None) -> None:
        self.layer = layer
        self.post = _NONE if activation is None else _ACTIVATIONS[type(activation)](activation)
        self._packs: dict[tuple, tuple[tuple, Pack]] = {}

    def __deepcopy__(self, memo: dict) -> _Packed:
        """For the copy of the layer; packed weights are not copied."""
        copied = copy(self)
        copied.layer, copied._packs = deepcopy(self.layer, memo), {}
        return copied

    def packed(self, *key: object, pack: Callable[[], Pack]) -> Pack:
        """Weight and bias under a key, packed if they were not or the layer's have changed."""
        weight = self.layer.weight
        version = weight.data_ptr(), 0 if weight.is_inference() else weight._version
        found = self._packs.get(key)
        if found is None or found[0] != version:
            self._packs[key] = found = version, pack()
        return found[1]


def _dtype() -> torch.dtype:
    """The type that layers compute in."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32


class PackedConv2d(_Packed):
    """The forward of a convolution."""

    def __init__(self, layer: nn.Conv2d, activation: nn.Module | None = None) -> None:
        """
        Args:
            layer: its parameters and sizes; detectron2's with norm and activation.
            activation: behind it, done here.
        """
        super().__init__(layer, activation)
        self.then = getattr(layer, "activation", None)
        if isinstance(self.then, nn.ReLU) or self.then in (F.relu, F.relu_):
            self.post, self.then = _ACTIVATIONS[nn.ReLU](None), None

    def __call__(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H', W')."""
        layer, dtype = self.layer, _dtype()
        if not _runs_packed(x):
            return type(layer).forward(layer, x)
        is_folded = isinstance(layer, EvenConv2dSame) and layer.divides(x)
        padding = layer.padding
        if isinstance(layer, EvenConv2dSame):
            padding = (0, 0)
            if is_folded:
                padding = fold_padding(layer.weight.detach(), same_padding(layer))[1]
            else:
                x = pad_same(x, layer.kernel_size, layer.stride, layer.dilation)
        sizes = (padding, layer.stride, layer.dilation, layer.groups)
        if self.in_8_bits and (given := _to_8_bits(x)) is not None:
            packed = self.packed(torch.int8, is_folded, pack=lambda: self._pack_8_bits(is_folded, sizes, x.shape))
            sizes, output = (layer.stride, padding, layer.dilation, layer.groups), (1.0, 0, dtype)
            x = torch.ops.onednn.qconv2d_pointwise(*given, *packed, *sizes, *output, *self.post, "")
        else:
            weight, bias = self.packed(dtype, is_folded, pack=lambda: self._pack(dtype, is_folded, sizes, x.shape))
            x = torch.ops.mkldnn._convolution_pointwise(x.to(dtype), weight, bias, *sizes, *self.post, "")
        return x if self.then is None else self.then(x)

    def _pack(self, dtype: torch.dtype, is_folded: bool, sizes: tuple, shape: torch.Size) -> Pack:
        weight, bias = self._folded(is_folded)
        packed = torch.ops.mkldnn._reorder_convolution_weight(weight.to(dtype).contiguous(), *sizes, list(shape))
        return packed, None if bias is None else bias.to(dtype)

    def _pack_8_bits(self, is_folded: bool, sizes: tuple, shape: torch.Size) -> Pack:
        weight, bias = self._folded(is_folded)
        numbers, scales, zeros = _weight_to_8_bits(weight)
        padding, *others = sizes
        sizes = (others[0], padding, *others[1:])
        return torch.ops.onednn.qconv_prepack(numbers, scales, 1.0, 0, *sizes, list(shape)), scales, zeros, bias

    def _folded(self, is_folded: bool) -> tuple[Tensor, Tensor | None]:
        """Weight and bias with a norm in them and, where asked, padding."""
        weight, bias = self.layer.weight.detach(), self.layer.bias
        if (norm := getattr(self.layer, "norm", None)) is not None:
            scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
            weight = weight * scale[:, None, None, None]
            bias = norm.bias + ((0 if bias is None else bias.detach()) - norm.running_mean) * scale
        if is_folded:
            weight, _ = fold_padding(weight, same_padding(self.layer))
        return weight, None if bias is None else bias.detach()


class PackedLinear(_Packed):
    """The forward of an nn.Linear."""

    def __init__(self, layer: nn.Linear, activation: nn.Module | None = None, *, flattens: bool = False) -> None:
        """
        Args:
            layer: its parameters.
            activation: behind it, done here.
            flattens: whether it takes maps (R, C, P, P), which an nn.Flatten before it would have flattened.
        """
        super().__init__(layer, activation)
        self.flattens = flattens

    def __call__(self, x: Tensor) -> Tensor:
        """(..., F) or (R, C, P, P) -> (..., F')."""
        layer, dtype = self.layer, _dtype()
        if not _runs_packed(x):
            return type(layer).forward(layer, x)
        order = None  # of the features, as they lie in memory
        if self.flattens and x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
            order, x = tuple(x.shape[1:]), x.permute(0, 2, 3, 1)
        x = (x.flatten(1) if self.flattens else x).contiguous()
        if self.in_8_bits and (given := _to_8_bits(x)) is not None:
            packed = self.packed(torch.int8, order, pack=lambda: self._pack_8_bits(order))
            return torch.ops.onednn.qlinear_pointwise(*given, *packed, 1.0, 0, dtype, *self.post, "")
        weight, bias = self.packed(dtype, order, pack=lambda: self._pack(dtype, order))
        return torch.ops.mkldnn._linear_pointwise(x.to(dtype), weight, bias, *self.post, "")

    def _pack(self, dtype: torch.dtype, order: tuple[int, ...] | None) -> Pack:
        weight, bias = self._weight(order).to(dtype).contiguous(), self.layer.bias
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS)
        return packed, None if bias is None else bias.detach().to(dtype)

    def _pack_8_bits(self, order: tuple[int, ...] | None) -> Pack:
        numbers, scales, zeros = _weight_to_8_bits(self._weight(order))
        packed = torch.ops.onednn.qlinear_prepack(numbers, [_ROWS, numbers.shape[1]])
        bias = self.layer.bias
        return packed, scales, zeros, None if bias is None else bias.detach()

    def _weight(self, order: tuple[int, ...] | None) -> Tensor:
        weight = self.layer.weight.detach()
        return weight if order is None else weight.unflatten(1, order).permute(0, 2, 3, 1).flatten(1)

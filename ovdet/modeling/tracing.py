"""Layers that ask nothing of their input's size, so that traced shapes stay simple."""

from __future__ import annotations

from copy import deepcopy

import torch
from detectron2.layers import Conv2d
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from timm.layers import Conv2dSame
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from ovdet.imagenet_lite import same_padding, with_padding

_MIN_STEPS = 3  # below it a map may have a side of 1, for which torch's convolutions are chosen in another way
_MIN_STEPS_P7 = 5  # likewise where maps go on to a quarter of the coarsest one that the image is padded for


def min_steps(backbone: nn.Module) -> int:
    """The least sides of a traced detector's input, in multiples of what its backbone's strides divide."""
    return _MIN_STEPS_P7 if any(isinstance(part, LastLevelP6P7) for part in backbone.modules()) else _MIN_STEPS


def opaque(number: int, least: int = _MIN_STEPS) -> int:
    """The same number, but at least so large, as one that tracing knows nothing of.

    With it the sides of all feature maps are plain multiples. As expressions of the photo's sides they would grow with
    every layer, until tracing takes hours.
    """
    number = torch.scalar_tensor(torch.sym_max(number, least), dtype=torch.int64).item()
    torch._check(number >= least)
    return number


def with_fixed_shapes(backbone: nn.Module) -> nn.Module:
    """A copy of a backbone, the same for inputs whose sides its strides divide."""
    backbone = deepcopy(backbone)
    for name, module in list(backbone.named_modules()):
        if isinstance(module, LastLevelMaxPool):
            backbone.set_submodule(name, EverySecond())
        elif isinstance(module, Conv2dSame):
            backbone.set_submodule(name, with_even_padding(module))
    return backbone


def with_folded_norms(part: nn.Module) -> nn.Module:
    """A copy whose convolutions do what batch norms behind them do in evaluation; a part without any is not copied.

    torch's batch norm asks for its input's strides, which are expressions of the photo's sides.
    """
    if not any(_is_normalized(layer) for layer in part.modules()):
        return part
    part = deepcopy(part)
    for layer in filter(_is_normalized, part.modules()):
        norm, layer.norm = layer.norm, None
        statistics = (norm.running_mean, norm.running_var, norm.eps)
        layer.weight, layer.bias = fuse_conv_bn_weights(layer.weight, layer.bias, *statistics, norm.weight, norm.bias)
    return part


def _is_normalized(layer: nn.Module) -> bool:
    """Whether a layer is a convolution with a batch norm of its own that is not frozen."""
    return isinstance(layer, Conv2d) and isinstance(layer.norm, nn.BatchNorm2d)


class EverySecond(LastLevelMaxPool):
    """The same as a slice, which does not ask whether a side is even."""

    def forward(self, x: Tensor) -> list[Tensor]:
        """(1, C, H, W) -> [(1, C, ceil(H / 2), ceil(W / 2))]."""
        return [x[:, :, ::2, ::2].contiguous(memory_format=torch.channels_last)]


def with_even_padding(same: Conv2dSame) -> nn.Module:
    """TensorFlow's "same" convolution, whose padding timm computes from each input, for sides that its stride divides.

    One with dilation is left as it is.
    """
    return with_padding(same, same_padding(same)) if set(same.dilation) == {1} else same

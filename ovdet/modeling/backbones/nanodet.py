"""NanoDet-Plus-m's network as a backbone: what a small detector of COCO's 80 classes sees, for an expert to read.

ShuffleNetV2 (arXiv:1807.11164), Ghost-PAN (of GhostNet's modules, arXiv:1911.11907) and the depthwise towers of its
heads, batch norms folded. Its last layers, which say classes and boxes, are modeling/expert.py's. Written from the
layers that its published file lists (github.com/RangiLyu/nanodet, Apache-2.0).

Shape letters: N images, H, W of the network's input, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from torch import Tensor, nn

from ovdet.initialization import KeepsOwnWeights
from ovdet.packable import packable

_STAGES = {58: 4, 116: 8, 232: 4}  # channels of a branch: units, of strides 8, 16 and 32
_WIDTH = 96


@packable
class NanoDetBackbone(KeepsOwnWeights, Backbone):
    """Maps of 96 channels and strides 8, 16, 32 and 64 ("nanodet8", ...), frozen."""

    def __init__(self, weights: Mapping[str, Tensor] | None = None) -> None:
        """
        Args:
            weights: a state dict, see load_nanodet_backbone; made for the input that the detector gives it. None:
                random.
        """
        super().__init__()
        self.stem = nn.Sequential(_convolution(3, 24, 3, stride=2), nn.MaxPool2d(3, stride=2, padding=1))
        before = (24, *(2 * width for width in _STAGES))
        self.stages = nn.ModuleList(
            nn.Sequential(_Down(inside, width), *(_Unit(width) for _ in range(units - 1)))
            for inside, (width, units) in zip(before[:-1], _STAGES.items(), strict=True)
        )
        self.reduce = nn.ModuleList(_convolution(channels, _WIDTH) for channels in before[1:])
        self.top_down = nn.ModuleList(_Ghost() for _ in range(2))  # to stride 8, to stride 16
        self.down = nn.ModuleList(_separable(stride=2) for _ in range(2))  # from stride 8, from stride 16
        self.bottom_up = nn.ModuleList(_Ghost() for _ in range(2))  # of stride 16, of stride 32
        self.extra_before, self.extra_after = _separable(stride=2), _separable(stride=2)
        self.towers = nn.ModuleList(nn.Sequential(*_separable(), *_separable()) for _ in range(4))
        self.build_with(weights)
        self.requires_grad_(False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W), sides that 32 divides -> maps (N, C, H / stride, W / stride) by name."""
        x, maps = self.stem(images), []
        for stage, reduce in zip(self.stages, self.reduce, strict=True):
            x = stage(x)
            maps.append(reduce(x))
        coarse = maps[-1]
        inner = [coarse]
        for finer, ghost in zip(maps[-2::-1], reversed(self.top_down), strict=True):
            up = F.interpolate(inner[0], scale_factor=2.0, mode="bilinear", align_corners=False)
            inner.insert(0, ghost(torch.cat([up, finer], 1)))
        outer = [inner[0]]
        for coarser, down, ghost in zip(inner[1:], self.down, self.bottom_up, strict=True):
            outer.append(ghost(torch.cat([down(outer[-1]), coarser], 1)))
        outer.append(self.extra_before(coarse) + self.extra_after(outer[-1]))
        return {name: tower(x) for name, tower, x in zip(self.output_shape(), self.towers, outer, strict=True)}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {f"nanodet{stride}": ShapeSpec(channels=_WIDTH, stride=stride) for stride in (8, 16, 32, 64)}

    @property
    def size_divisibility(self) -> int:
        return 32


def _convolution(inside: int, outside: int, kernel: int = 1, **options) -> nn.Sequential:
    """A convolution and its activation."""
    return nn.Sequential(nn.Conv2d(inside, outside, kernel, padding=kernel // 2, **options), nn.LeakyReLU(0.1))


def _depthwise(channels: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, kernel, stride, kernel // 2, groups=channels)


def _separable(stride: int = 1) -> nn.Sequential:
    """A depthwise 5 x 5 and a pointwise convolution."""
    return nn.Sequential(*_convolution(_WIDTH, _WIDTH, 5, stride=stride, groups=_WIDTH), *_convolution(_WIDTH, _WIDTH))


def _shuffle(x: Tensor) -> Tensor:
    """Channels of both halves in turns."""
    return x.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)


class _Unit(nn.Module):
    """ShuffleNetV2's unit: half of the channels pass, the other half is convolved."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(*_convolution(width, width), _depthwise(width, 3), *_convolution(width, width))

    def forward(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, 1)
        return _shuffle(torch.cat([first, self.branch(second)], 1))


class _Down(nn.Module):
    """ShuffleNetV2's unit of stride 2: both branches see all channels."""

    def __init__(self, inside: int, width: int) -> None:
        super().__init__()
        self.first = nn.Sequential(_depthwise(inside, 3, 2), *_convolution(inside, width))
        self.second = nn.Sequential(*_convolution(inside, width), _depthwise(width, 3, 2), *_convolution(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return _shuffle(torch.cat([self.first(x), self.second(x)], 1))


class _Ghost(nn.Module):
    """GhostNet's bottleneck: half of each map's channels are made from the other half, depthwise."""

    def __init__(self) -> None:
        super().__init__()
        half = _WIDTH // 2
        self.wide = _convolution(2 * _WIDTH, half)
        self.wide_cheap = _convolution(half, half, 3, groups=half)
        self.narrow = nn.Conv2d(_WIDTH, half, 1)
        self.narrow_cheap = _depthwise(half, 3)
        self.shortcut = nn.Sequential(_depthwise(2 * _WIDTH, 5), nn.Conv2d(2 * _WIDTH, _WIDTH, 1))

    def forward(self, x: Tensor) -> Tensor:
        wide = self.wide(x)
        narrow = self.narrow(torch.cat([wide, self.wide_cheap(wide)], 1))
        return torch.cat([narrow, self.narrow_cheap(narrow)], 1) + self.shortcut(x)

"""Swin Transformer (arXiv:2103.14030) on images of any size, as detectors use it.

Differences to the image classifiers of timm and torchvision: every second block shifts its windows on small maps too,
and what a map is padded with takes part in attention. Weights have the names of the authors' own code.

Shape letters: N images, H, W of a map, C channels, M side of a window, B windows of all images, S heads.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from timm.layers import DropPath
from torch import Tensor, nn

from ovdet.packable import packable

_FAR = -100.0  # added to the attention between parts of a window that are no neighbors


@packable
class SwinBackbone(Backbone):
    """Feature maps of a Swin Transformer, named by their stride: "stride4", "stride8", ..."""

    def __init__(
        self,
        *,
        embed_dim: int = 128,
        depths: Sequence[int] = (2, 2, 18, 2),
        num_heads: Sequence[int] = (4, 8, 16, 32),
        window_size: int = 7,
        drop_path_rate: float = 0.3,
        out_indices: Sequence[int] = (1, 2, 3),
    ) -> None:
        """
        Args:
            embed_dim: channels of the first stage; each further one has twice as many. Swin-B by default.
            depths: blocks of each stage.
            num_heads: likewise.
            window_size: M.
            drop_path_rate: of the last block in training, arXiv:1603.09382.
            out_indices: stages whose maps are given out, from 0.
        """
        super().__init__()
        self.patch_embed = _PatchEmbedding(embed_dim)
        rates = [drop_path_rate * block / max(sum(depths) - 1, 1) for block in range(sum(depths))]
        self.layers = nn.ModuleList()
        self._shapes = {}
        for stage, (depth, heads) in enumerate(zip(depths, num_heads, strict=True)):
            channels, first = embed_dim * 2**stage, sum(depths[:stage])
            is_last = stage == len(depths) - 1
            layer = _Stage(channels, heads, window_size, rates[first : first + depth], merges=not is_last)
            self.layers.append(layer)
            if stage in out_indices:
                self.add_module(f"norm{stage}", nn.LayerNorm(channels))
                self._shapes[f"stride{4 * 2**stage}"] = ShapeSpec(channels=channels, stride=4 * 2**stage)
        self.out_indices = tuple(out_indices)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) -> maps (N, C, H / stride, W / stride) by name."""
        x, maps = self.patch_embed(images), []
        for stage, layer in enumerate(self.layers):
            for block in layer.blocks:
                x = block(x)
            if stage in self.out_indices:
                maps.append(self.get_submodule(f"norm{stage}")(x).permute(0, 3, 1, 2))
            x = x if layer.downsample is None else layer.downsample(x)
        return dict(zip(self._shapes, maps, strict=True))

    def output_shape(self) -> dict[str, ShapeSpec]:
        return self._shapes


class _PatchEmbedding(nn.Module):
    """Patches of 4 x 4 pixels, normalized: (N, 3, H, W) -> (N, ceil(H / 4), ceil(W / 4), C)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, channels, 4, stride=4)
        self.norm = nn.LayerNorm(channels)

    def forward(self, images: Tensor) -> Tensor:
        padded = F.pad(images, (0, -images.shape[3] % 4, 0, -images.shape[2] % 4))
        return self.norm(self.proj(padded).permute(0, 2, 3, 1))


class _Stage(nn.Module):
    """Blocks, every second with shifted windows, and what joins patches for the next stage."""

    def __init__(
        self, channels: int, num_heads: int, window_size: int, rates: Sequence[float], *, merges: bool
    ) -> None:
        super().__init__()
        shifts = [window_size // 2 if block % 2 else 0 for block in range(len(rates))]
        blocks = [_Block(channels, num_heads, window_size, *pair) for pair in zip(shifts, rates, strict=True)]
        self.blocks = nn.ModuleList(blocks)
        self.downsample = _PatchMerging(channels) if merges else None


class _Block(nn.Module):
    """Attention within windows and a perceptron, each on a normalized map and added to it: (N, H, W, C) -> the same."""

    def __init__(self, channels: int, num_heads: int, window_size: int, shift: int, drop_path: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.attn = _WindowAttention(channels, num_heads, window_size, shift)
        self.mlp = _Perceptron(channels)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class _Perceptron(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class _WindowAttention(nn.Module):
    """Self-attention within (shifted) windows, with a learned bias for each relative position."""

    def __init__(self, channels: int, num_heads: int, window_size: int, shift: int) -> None:
        super().__init__()
        self.num_heads, self.window_size, self.shift = num_heads, window_size, shift
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window_size - 1) ** 2, num_heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_index", relative_positions(window_size), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, C) -> the same shape."""
        height, width = x.shape[1:3]
        side = self.window_size
        x = F.pad(x, (0, 0, 0, -width % side, 0, -height % side))
        padded = x.shape[1:3]
        if self.shift:
            x = x.roll((-self.shift, -self.shift), dims=(1, 2))
        # (N, rows, M, columns, M, C) -> (B, M * M, C)
        windows = x.unflatten(2, (-1, side)).unflatten(1, (-1, side)).transpose(2, 3)
        layout = windows.shape
        windows = self._attend(windows.flatten(0, 2).flatten(1, 2), padded)
        x = windows.view(layout).transpose(2, 3).flatten(3, 4).flatten(1, 2)
        if self.shift:
            x = x.roll((self.shift, self.shift), dims=(1, 2))
        return x[:, :height, :width]

    def _attend(self, windows: Tensor, padded: Sequence[int]) -> Tensor:
        """(B, M * M, C) of maps of (H, W) -> the same shape."""
        queries, keys, values = self.qkv(windows).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        bias = self.relative_position_bias_table[self.relative_index.flatten()]
        bias = bias.view(*self.relative_index.shape, -1).permute(2, 0, 1)[None]  # (1, S, M * M, M * M)
        if self.shift:
            mask = shifted_window_mask(*padded, self.window_size, self.shift, windows.device)  # (windows, M M, M M)
            bias = (bias + mask[:, None]).repeat(windows.shape[0] // mask.shape[0], 1, 1, 1)
        mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=bias.to(queries))
        return self.proj(mixed.transpose(1, 2).flatten(2))


class _PatchMerging(nn.Module):
    """2 x 2 neighbors as one: (N, H, W, C) -> (N, ceil(H / 2), ceil(W / 2), 2 C)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels)
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        columns = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.reduction(self.norm(torch.cat(columns, dim=3)))


def relative_positions(side: int) -> Tensor:
    """(M * M, M * M), which row of the table of biases is for each pair of places in a window."""
    rows, columns = torch.arange(side).repeat_interleave(side), torch.arange(side).repeat(side)
    differences = [places[:, None] - places + side - 1 for places in (rows, columns)]
    return differences[0] * (2 * side - 1) + differences[1]


def shifted_window_mask(height: int, width: int, side: int, shift: int, device: torch.device) -> Tensor:
    """(windows, M * M, M * M), 0 between places that were neighbors before the shift, -100 between others.

    Args:
        height: of the map, a multiple of M.
        width: likewise.
        side: M.
        shift: by how much the map was moved.
        device: of the map.
    """

    def parts(length: int) -> Tensor:
        places = torch.arange(length, device=device)
        return (places >= length - side).long() + (places >= length - shift)

    areas = 3 * parts(height)[:, None] + parts(width)  # (H, W)
    areas = areas.unflatten(1, (-1, side)).unflatten(0, (-1, side)).transpose(1, 2).flatten(0, 1).flatten(1)
    return torch.where(areas[:, :, None] == areas[:, None], 0.0, _FAR)

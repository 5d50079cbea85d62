"""CLIP's own ResNet (arXiv:2103.00020) in two halves: a backbone of stride 16, and the rest as an encoder of regions.

RegionCLIP (arXiv:2112.09106) detects so: the last stage and the attention pooling, which gave CLIP's image embedding,
look at each region of the map, and what they give lies in CLIP's text space.

Shape letters: N images, R regions over all images, C channels, P pooled side, T places of a region and their mean, S
heads, F channels of a head, D embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import Backbone
from torch import Tensor, nn

from ovdet.packable import packable


def _clip_resnet(layers: Sequence[int], width: int) -> nn.Module:
    """open_clip's, random, with frozen batch norms."""
    from open_clip.modified_resnet import ModifiedResNet  # it takes seconds to import

    network = ModifiedResNet(list(layers), output_dim=1, heads=1, image_size=32, width=width)
    return FrozenBatchNorm2d.convert_frozen_batchnorm(network)


@packable
class ClipResNetBackbone(Backbone):
    """The stem and three stages: a map "res4" of stride 16."""

    def __init__(self, *, layers: Sequence[int] = (3, 4, 6, 3), width: int = 64) -> None:
        """
        Args:
            layers: blocks of CLIP's four stages, of which the last is not here; RN50's by default.
            width: of its stem.
        """
        super().__init__()
        network = _clip_resnet(layers, width)
        for name, module in network.named_children():
            if name not in ("layer4", "attnpool"):
                self.add_module(name, module)
        self._channels = 16 * width

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) -> {"res4": (N, C, H / 16, W / 16)}."""
        x = images
        for module in self.children():
            x = module(x)
        return {"res4": x}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {"res4": ShapeSpec(channels=self._channels, stride=16)}


@packable
class ClipRegionHead(nn.Module):
    """The last stage and the attention pooling on each region."""

    def __init__(
        self,
        *,
        layers: Sequence[int] = (3, 4, 6, 3),
        width: int = 64,
        num_heads: int = 32,
        pooled_side: int = 7,
        out_features: int = 1024,
    ) -> None:
        """
        Args:
            layers: see ClipResNetBackbone.
            width: likewise.
            num_heads: S of the attention pooling.
            pooled_side: of a region behind the last stage, whose stride is 2.
            out_features: D.
        """
        super().__init__()
        self.layer4 = _clip_resnet(layers, width).layer4
        self.attnpool = AttentionPool(32 * width, pooled_side, num_heads, out_features)

    def stage(self, pooled: Tensor) -> Tensor:
        """(R, C, P, P) -> (R, 32 * width, P / 2, P / 2), what masks are read off, too."""
        return self.layer4(pooled)

    def forward(self, pooled: Tensor) -> Tensor:
        """(R, C, P, P) -> (R, D)."""
        return self.attnpool(self.stage(pooled))


class AttentionPool(nn.Module):
    """CLIP's attention pooling: the mean of all places attends to them and to itself.

    With one query a head's keys need not be computed: its scores are products of the places with the query that was put
    through the keys' weights; likewise the values' weights are applied to the places' weighted sum. For RN50 this is an
    eighteenth of the operations.
    """

    def __init__(self, channels: int, side: int, num_heads: int, out_features: int) -> None:
        """
        Args:
            channels: C.
            side: of what is pooled; T is its square and one more.
            num_heads: S.
            out_features: D.
        """
        super().__init__()
        self.num_heads = num_heads
        self.positional_embedding = nn.Parameter(torch.randn(side**2 + 1, channels) / channels**0.5)
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(channels, channels) for _ in range(3))
        self.c_proj = nn.Linear(channels, out_features)

    def forward(self, maps: Tensor) -> Tensor:
        """(R, C, side, side) -> (R, D)."""
        places = maps.flatten(2).transpose(1, 2)  # (R, T - 1, C)
        places = torch.cat([places.mean(1, keepdim=True), places], dim=1) + self.positional_embedding
        queries = self.q_proj(places[:, 0]).unflatten(1, (self.num_heads, -1))  # (R, S, F)
        keys, values = (part.weight.unflatten(0, (self.num_heads, -1)) for part in (self.k_proj, self.v_proj))
        queries = torch.einsum("rsf,sfc->rsc", queries, keys) / keys.shape[1] ** 0.5
        # the keys' bias adds the same to all places of a head, which the softmax does not see
        attention = (queries @ places.transpose(1, 2)).softmax(2)  # (R, S, T)
        mixed = torch.einsum("rsc,sfc->rsf", attention @ places, values).flatten(1) + self.v_proj.bias
        return self.c_proj(mixed)

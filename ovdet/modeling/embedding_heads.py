"""Heads that embed regions: the projection into the text space, ViLD-ensemble's image branch, and F-VLM's.

Shape letters: N images, R regions over all images (Ri of image i), C channels, P pooled side, F features, K names that
an image classifier was trained on, D embedding width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from detectron2.structures import Boxes
from torch import Tensor, nn
from torchvision.ops import roi_align

from ovdet.modeling.region_pooler import RegionPooler
from ovdet.packable import packable

_SAMPLES = 4  # a side, of a region


class RegionProjection(nn.Module):
    """One linear layer to the embedding width, then unit norm ("project-to-clip", arXiv:2104.13921)."""

    def __init__(self, in_features: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, width)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Tensor) -> Tensor:
        """(R, F) -> (R, D), unit norm, float32 (under autocast too)."""
        return F.normalize(self.linear(features.flatten(1)).float(), dim=1)


@packable
class UnitNorm(nn.Module):
    """The projection of region features that lie in the text space already: unit norm alone."""

    def forward(self, features: Tensor) -> Tensor:
        """(R, D) -> (R, D), unit norm, float32."""
        return F.normalize(features.flatten(1).float(), dim=1)


@packable
class ImageBranch(nn.Module):
    """ViLD-ensemble's second branch: a box head and a projection of its own, trained by distillation alone.

    FrozenBackboneBranch takes the same arguments and looks at other parts of them.
    """

    def __init__(self, box_head: nn.Module, *, in_features: int, width: int) -> None:
        """
        Args:
            box_head: (R, C, P, P) -> (R, F).
            in_features: F.
            width: D.
        """
        super().__init__()
        self.box_head = box_head
        self.projection = RegionProjection(in_features, width)

    def forward(self, pooled: Tensor, features: Mapping[str, Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Embed regions.

        Args:
            pooled: (R, C, P, P), the regions' parts of the pyramid.
            features: all maps by name; not looked at here.
            boxes: of each image (Ri, 4) XYXY, pixels of the network's input; not looked at here.

        Returns:
            (R, D), unit norm.
        """
        return self.embed_features(self.features(pooled, features, boxes))

    def embed_features(self, regions: Tensor) -> Tensor:
        """(R, F) of `features` -> (R, D), unit norm."""
        return self.projection(regions)

    def features(self, pooled: Tensor, features: Mapping[str, Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """The features that are projected, (R, F): richer than the projection; arguments as of `forward`."""
        return self.box_head(pooled)


@packable
class FrozenBackboneBranch(nn.Module):
    """F-VLM's branch (arXiv:2209.15639): the image classifier's own last layers on each region of its last map.

    The backbone is frozen or nearly so: what it knew of whole images it still knows of regions, without any training
    and without crops. A region's embedding is ConSE's (arXiv:1312.5650), the mean of the embeddings of the classifier's
    names, weighted by their probabilities. Distillation goes on from there.
    """

    def __init__(
        self,
        in_feature: str,
        *,
        stride: int,
        channels: tuple[int, int] = (320, 1280),
        num_names: int = 1000,
        width: int = 384,
        weights: Mapping[str, Tensor] | None = None,
        trained: bool = False,
    ) -> None:
        """
        Args:
            in_feature: the backbone's last map.
            stride: of that map.
            channels: C of the map, and F of the layer between map and classifier.
            num_names: K.
            width: D.
            weights: "expand.weight" (F, C, 1, 1), "expand.bias", "names.weight" (K, F), "names.bias",
                "name_embeddings" (K, D) of unit norm, e.g. by `load_conse_head`; None: random.
            trained: whether these layers are trained, by distillation; with a backbone that is trained they should be.
        """
        super().__init__()
        self.in_feature = in_feature
        self.stride = stride
        self.expand = nn.Conv2d(channels[0], channels[1], kernel_size=1)
        self.names = nn.Linear(channels[1], num_names)
        self.register_buffer("name_embeddings", F.normalize(torch.randn(num_names, width), dim=1))
        if weights is not None:
            self.load_state_dict(weights)
        self.requires_grad_(trained)
        self.pooler = RegionPooler(1, scales=(1 / stride,), sampling_ratio=_SAMPLES)

    def forward(self, pooled: Tensor, features: Mapping[str, Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Embed regions.

        Args:
            pooled: not looked at, see ImageBranch.
            features: maps (N, C, H / stride, W / stride) by name.
            boxes: N of (Ri, 4) XYXY, pixels of the network's input.

        Returns:
            (R, D), unit norm, float32.
        """
        return self.embed_features(self.features(pooled, features, boxes))

    def embed_features(self, regions: Tensor) -> Tensor:
        """(R, F) of `features` -> (R, D), unit norm, float32."""
        with torch.autocast(regions.device.type, enabled=False):  # scores hang on it
            probabilities = self.names(regions).softmax(-1)  # (R, K)
            return F.normalize(probabilities @ self.name_embeddings, dim=-1)

    def features(self, pooled: Tensor, features: Mapping[str, Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """The features that are classified, (R, F): richer than the embedding; arguments as of `forward`."""
        expanded = F.relu6(self.expand(features[self.in_feature])).float()  # (N, F, H / stride, W / stride)
        if torch.compiler.is_exporting():
            return roi_align(expanded, list(boxes), 1, 1 / self.stride, _SAMPLES, aligned=True).flatten(1)
        return self.pooler([expanded], [Boxes(each) for each in boxes]).flatten(1)

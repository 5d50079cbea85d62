"""The image side as the image classifier's own last layers, on each region's part of its last map.

The backbone is frozen, so what it knew of whole images it still knows of regions: without any training the branch
names regions as well as the classifier names their crops, and costs no crop (F-VLM, arXiv:2209.15639). Distillation
goes on from there.

Shape letters: N images, R regions over all images (Ri of image i), C channels, F features, K names that the image
classifier was trained on, D embedding width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_align

_SAMPLES = 4  # a side, of a region


class FrozenBackboneBranch(nn.Module):
    """Region embeddings as ConSE's (arXiv:1312.5650): the mean of names' embeddings, weighted by probabilities."""

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

    def forward(self, pooled: Tensor, features: Mapping[str, Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Embed regions.

        Args:
            pooled: not looked at, see ImageBranch.
            features: maps (N, C, H / stride, W / stride) by name.
            boxes: N of (Ri, 4) XYXY, pixels of the network's input.

        Returns:
            (R, D), unit norm, float32.
        """
        expanded = F.relu6(self.expand(features[self.in_feature])).float()  # (N, F, H / stride, W / stride)
        regions = roi_align(expanded, list(boxes), 1, 1 / self.stride, _SAMPLES, aligned=True).flatten(1)  # (R, F)
        with torch.autocast(regions.device.type, enabled=False):  # scores hang on it
            probabilities = self.names(regions).softmax(-1)  # (R, K)
            return F.normalize(probabilities @ self.name_embeddings, dim=-1)

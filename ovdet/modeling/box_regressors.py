"""Box regressors: from region features to class-agnostic box deltas.

Shape letters: R regions over all images, F region features.
"""

from __future__ import annotations

from torch import Tensor, nn

from ovdet.packable import packable


@packable
class TwoLayerBoxRegressor(nn.Sequential):
    """(R, F) -> box deltas (R, 4) by two linear layers with a ReLU between them, as in Detic (arXiv:2201.02605)."""

    def __init__(self, in_features: int) -> None:
        """
        Args:
            in_features: F, and the width of the layer between.
        """
        super().__init__(nn.Linear(in_features, in_features), nn.ReLU(inplace=True), nn.Linear(in_features, 4))
        nn.init.normal_(self[-1].weight, std=0.001)
        nn.init.zeros_(self[-1].bias)


@packable
class ProposalsAsBoxes(nn.Module):
    """No regression: (R, F) -> zeros (R, 4), so that proposals stay where they are."""

    def forward(self, features: Tensor) -> Tensor:
        return features.new_zeros(len(features), 4)

"""A linear expert: classifiers of fixed names on region features, learned from the boxes of a few photos.

See modeling/expert.py for how an expert joins. A name's embedding says little where names mean nearly the same or the
text encoder has hardly met them ("taillight", "okra bud"); a linear row on what the box head and the image branch see
of a region says more from ten boxes on (ovdet/learning/expert.py finds them). Names that it does not know stay as they
are.

Shape letters: R regions, F features of each, D embedding width, C names, J rows that mean one of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ovdet.errors import InputError
from ovdet.modeling.expert import Expert
from ovdet.packable import packable


@packable
class LinearExpert(Expert):
    """Logistic regressions on region features, one for each name."""

    def __init__(
        self,
        names: Sequence[str],
        *,
        width: int,
        in_features: int,
        exponent: float = 0.7,
        weights: Mapping[str, Tensor] | None = None,
    ) -> None:
        """
        Args:
            names: of its C classes, see Expert.
            width: D of the detector's embedding space.
            in_features: F, the first of what `region_features` gives: without the embeddings at its end.
            exponent: g, within [0, 1].
            weights: "rows" (J, D), the embeddings of all names; "weight" (C, F) and "bias" (C,). None: zeros, whose
                rows mean nothing.

        Raises:
            InputError: an exponent outside of that.
        """
        super().__init__(names, width=width, exponent=exponent)
        self.register_buffer("weight", torch.zeros(len(self.names), in_features))
        self.register_buffer("bias", torch.zeros(len(self.names)))
        self.build_with(weights)

    def forward(self, features: Tensor) -> Tensor:
        """(R, F or more) of `region_features` -> log-probabilities of its names, (R, C) float32.

        Raises:
            InputError: fewer features, which are another detector's.
        """
        width = self.weight.shape[1]
        if features.shape[1] < width:
            raise InputError(f"expected {width} region features or more for the linear expert, got {features.shape[1]}")
        with torch.autocast(features.device.type, enabled=False):
            return F.logsigmoid(features[:, :width].float() @ self.weight.float().t() + self.bias.float())

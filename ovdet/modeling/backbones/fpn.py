"""detectron2's feature pyramid, beside the backbone's own maps: heads of a frozen image classifier read these."""

from __future__ import annotations

from collections.abc import Mapping

from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from detectron2.modeling.backbone import FPN
from torch import Tensor

from ovdet.packable import packable


@packable
class FPNWithBackboneFeatures(Backbone):
    """The pyramid's maps ("p3", "p4", ...) and those of the backbone below it ("stride8", ...)."""

    def __init__(self, bottom_up: Backbone, *, beside: Backbone | None = None, **pyramid) -> None:
        """
        Args:
            bottom_up: maps (N, C, H / stride, W / stride) by name.
            beside: another backbone, frozen, with maps of other names that an expert reads at test time (see
                modeling/expert.py). It is not run in training.
            pyramid: what detectron2's FPN takes.
        """
        super().__init__()
        self.bottom_up, self.beside = bottom_up, beside
        self.pyramid = FPN(bottom_up=_ReadyMaps(bottom_up.output_shape()), **pyramid)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) -> maps (N, C, H / stride, W / stride) by name."""
        maps = self.bottom_up(images)
        more = {} if self.beside is None or self.training else self.beside(images)
        return {**maps, **self.pyramid(maps), **more}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {**self.bottom_up.output_shape(), **self.pyramid.output_shape()}

    @property
    def size_divisibility(self) -> int:
        return self.pyramid.size_divisibility

    @property
    def padding_constraints(self) -> dict[str, int]:
        return self.pyramid.padding_constraints


class _ReadyMaps(Backbone):
    """A backbone for FPN whose maps are there already."""

    def __init__(self, shapes: Mapping[str, ShapeSpec]) -> None:
        super().__init__()
        self._shapes = dict(shapes)

    def forward(self, maps: dict[str, Tensor]) -> dict[str, Tensor]:
        """As they are."""
        return maps

    def output_shape(self) -> dict[str, ShapeSpec]:
        return self._shapes

"""A published detector's architecture: its config here, and which of its authors' weights goes where.

A family (Detic, RegionCLIP, ...) has one variant or several, told apart by the names and shapes of their weights.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from ovdet.hub.parts import check_build, to_data

Shapes = Mapping[str, tuple[int, ...]]

_COUNTERS = "num_batches_tracked"  # of batch norms: some versions of detectron2 save them for frozen ones too


@dataclass(frozen=True)
class Space:
    """The text space that a detector's regions live in: what a model folder says of its teacher."""

    name: str
    width: int
    templates: str = "a"


@dataclass(frozen=True)
class Origin:
    """Facts about a published detector for its model card.

    Attributes:
        project: its name.
        source: where its code and weights are.
        license: identifier.
        paper: where the method is described.
    """

    project: str
    source: str
    license: str
    paper: str


@dataclass(frozen=True)
class Variant:
    """One architecture of a family.

    Attributes:
        name: such as "detic-r50".
        title: what it is, in a line.
        build_model: -> the config of the detector.
        renames: (regular expression, replacement), one after the other: a weight's name here -> its published one.
        unused: regular expression of published weights that no detection needs.
        constants: values of weights that exist here alone.
        computed: weights that several published ones make up: their names, and a function of them.
        space: see Space.
        short_edge_length: pixels of the shorter side of a test photo.
        max_size: pixels of the longer one at most.
        origin: see Origin.
    """

    name: str
    title: str
    build_model: Callable[[], DictConfig]
    renames: Sequence[tuple[str, str]]
    unused: str
    space: Space
    origin: Origin
    constants: Mapping[str, float] = field(default_factory=dict)
    computed: Mapping[str, tuple[Sequence[str], Callable[..., Tensor]]] = field(default_factory=dict)
    short_edge_length: int = 800
    max_size: int = 1333

    @cached_property
    def model(self) -> dict[str, Any]:
        """The detector's parts, as a model folder names them."""
        return to_data(self.build_model())

    @cached_property
    def shapes(self) -> Shapes:
        """The shapes of the detector's weights."""
        return check_build(self.model, self.name)

    def published_name(self, key: str) -> str:
        """The name of a weight in the published file."""
        for pattern, replacement in self.renames:
            key = re.sub(pattern, replacement, key)
        return key

    @cached_property
    def sources(self) -> dict[str, str]:
        """The weights' names here -> in the published file, of all that comes from there."""
        others = {*self.constants, *self.computed}
        return {key: self.published_name(key) for key in self.shapes if key not in others}

    def differences(self, stored: Shapes) -> list[str]:
        """Weights of a file that are missing, unknown or of another shape; none where it fits."""
        lacking, other = [], []
        for key, source in self.sources.items():
            if source not in stored:
                lacking += [] if key.endswith(_COUNTERS) else [f"lacks {source} {_told(self.shapes[key])}"]
            elif stored[source] != self.shapes[key]:
                other.append(f"has {source} {_told(stored[source])} instead of {_told(self.shapes[key])}")
        parts = {source for sources, _ in self.computed.values() for source in sources}
        lacking += [f"lacks {source}" for source in sorted(parts - stored.keys())]
        known = {*self.sources.values(), *parts}
        more = [key for key in stored if key not in known and not self.is_unused(key)]
        return [*other, *lacking, *(f"has {key} {_told(stored[key])} too" for key in more)]

    def is_unused(self, source: str) -> bool:
        """Whether a published weight is none that detection needs."""
        return re.match(self.unused, source) is not None or source.endswith(_COUNTERS)

    def state(self, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The detector's weights from the published ones, which have no `differences`."""
        state = {}
        for key, shape in self.shapes.items():
            source = self.sources.get(key)
            if source in stored:
                state[key] = stored[source].float() if stored[source].is_floating_point() else stored[source]
            elif key in self.computed:
                sources, compute = self.computed[key]
                state[key] = compute(*(stored[part].float() for part in sources))
            elif source is None:
                state[key] = torch.full(shape, float(self.constants[key]))
            else:
                state[key] = torch.zeros(shape, dtype=torch.int64)  # a batch norm's counter
        return state


def _told(shape: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, shape))})"

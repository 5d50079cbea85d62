"""Background names: names that nobody asked for, as the background class of the image branch.

A softmax over the asked classes alone gives each region to one of them: an image classifier knows no "nothing of
these". It knows many other names, though, and a region that looks more like one of those is none of the asked classes.

Shape letters: O background names, S rows of ClassEmbeddings, R regions, D embedding width.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ovdet.class_embeddings import ClassEmbeddings
from ovdet.initialization import KeepsOwnWeights
from ovdet.modeling.large_vocabulary import chunk_size
from ovdet.modeling.scoring import dot_logits
from ovdet.packable import packable

_BUFFERS = ("embeddings", "definitions")
_NAMES_AT_ONCE = 128  # of an exported graph, which takes all classes at once
_NOTHING = -1e4  # a logit whose exponential is 0, and yet a number


@packable
class BackgroundNames(KeepsOwnWeights):
    """Embeddings of background names, and which of them are active: unlike all asked classes.

    By what they are called and by what that means: to `conse` a "whippet" is far from a "dog" (cosine 0.13), with its
    definition it is near (0.41).
    """

    def __init__(
        self, num_names: int = 1000, *, width: int, near: float = 0.3, weights: Mapping[str, Tensor] | None = None
    ) -> None:
        """
        Args:
            num_names: O.
            width: D.
            near: cosine from which on a background name may mean what an asked class means, and is left out. 0.3 is of
                `conse`, whose names have no common mean: there it leaves out 100 of 118 breeds where a dog is asked.
            weights: "embeddings" and "definitions", (O, D) each of unit norm: the names alone, and with what they mean;
                None: random.
        """
        super().__init__()
        self.near = near
        for name in _BUFFERS:
            self.register_buffer(name, F.normalize(torch.randn(num_names, width), dim=1))
        self._active: weakref.WeakKeyDictionary[ClassEmbeddings, Tensor] = weakref.WeakKeyDictionary()
        self.build_with(weights)

    def _load_from_state_dict(self, state_dict, prefix, *rest) -> None:
        self._active.clear()  # of other names
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def active_for(self, classes: ClassEmbeddings) -> Tensor:
        """Indices into O of those that are `active`, computed once for each ClassEmbeddings."""
        if classes not in self._active:
            self._active[classes] = self.active(classes.embeddings).nonzero().squeeze(1)
        return self._active[classes]

    def active(self, class_embeddings: Tensor) -> Tensor:
        """(S, D), unit norm -> (O,) bool: which of the background names are unlike all of them."""
        names = torch.cat([self.get_buffer(name) for name in _BUFFERS])  # (2 O, D)
        if torch.compiler.is_exporting():  # a graph for any number of classes
            nearest = torch.cat([dot_logits(some, class_embeddings).amax(1) for some in names.split(_NAMES_AT_ONCE)])
        else:
            nearest = names.new_full((len(names),), -torch.inf)
            for rows in class_embeddings.split(chunk_size(*names.shape)):  # a float32 copy of a million would be large
                nearest = torch.maximum(nearest, dot_logits(names, rows).amax(1))
        return nearest.view(len(_BUFFERS), -1).amax(0) < self.near

    def forward(self, queries: Tensor, active: Tensor) -> Tensor:
        """The logit of the background.

        Args:
            queries: (R, D), region embeddings over the temperature.
            active: indices, see `active_for`; in an exported graph (O,) bool, see `active`.

        Returns:
            (R,): of all active names together; for none of them far below all others.
        """
        if torch.compiler.is_exporting():  # a graph with fixed shapes
            logits = dot_logits(queries, self.embeddings)  # (R, O)
            return logits.masked_fill(~active, _NOTHING).logsumexp(1)
        return dot_logits(queries, self.embeddings[active]).logsumexp(1).clamp(min=_NOTHING)

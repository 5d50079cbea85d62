"""The contract of alignment objectives: losses between regions, their names and their teacher.

An objective is a file of its own: a pure function, and a small class on `Objective`. ROI heads take any list of them.

Shape letters: M regions over all images of a step, I whole images with a caption, D embedding width, K classes,
C channels, P pooled side.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather

from ovdet.class_embeddings import ClassEmbeddings

TEACHER, LABELS, VIEWS, CELLS, CAPTIONS, PAIRS = "teacher", "labels", "views", "cells", "captions", "pairs"
_TOGETHER = ({TEACHER}, {CAPTIONS}, {LABELS, VIEWS, CELLS, PAIRS})  # what a batch of regions has


class CaptionedImages(NamedTuple):
    """The images of a training step that have a caption, each as one region, and their captions.

    Attributes:
        embeddings: (I, D), unit norm; of the whole images by the detector, with a gradient.
        captions: (I, D), unit norm; the captions by the teacher's text encoder.
        sentences: I captions as they are written.
        cells: (I, C, P, P), the pooled features of the whole images, with a gradient.
    """

    embeddings: Tensor
    captions: Tensor
    sentences: tuple[str, ...]
    cells: Tensor


class RegionBatch(NamedTuple):
    """The regions of a training step.

    Attributes:
        embeddings: (M, D), unit norm; by the detector, with a gradient.
        classes: K classes with one row each.
        teacher: (M, D), unit norm; the same regions by the teacher. None where nobody asked for it.
        labels: (M,) in [0, K); then each region lies on an object.
        views: (M, D), unit norm; the same regions in boxes that were moved a little, with a gradient.
        cells: (M, C, P, P), the regions' pooled features, with a gradient.
        words: (W, D) of each image: the embeddings of its caption's words, unit norm; W may be 0.
        image_indices: (M,), where there are words: which image a region is of.
        pairs: whole images and their captions.
    """

    embeddings: Tensor
    classes: ClassEmbeddings
    teacher: Tensor | None = None
    labels: Tensor | None = None
    views: Tensor | None = None
    cells: Tensor | None = None
    words: Sequence[Tensor] | None = None
    image_indices: Tensor | None = None
    pairs: CaptionedImages | None = None

    def of_each_image(self) -> list[Tensor]:
        """The embeddings (R, D) of each image's regions."""
        return [self.embeddings[self.image_indices == index] for index in range(len(self.words))]


class Objective(nn.Module, ABC):
    """A loss on the regions of a step, weighted: forward(batch) -> {"loss_<name>": 0-dim}.

    Attributes:
        name: of its loss in logs.
        needs: what of a RegionBatch it reads beside embeddings and classes: the teacher, of the regions that it saw;
            captions, of all regions that are sampled for classification; or labels, views and cells, of those of
            them that lie on an object, and pairs, of whole images and captions.
        stays: whether a detector that is not trained any more keeps it, for what it has learned.
    """

    name: ClassVar[str]
    needs: ClassVar[frozenset[str]]
    stays: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if not any(cls.needs <= offered for offered in _TOGETHER):
            offered = ", or ".join(" and ".join(sorted(each)) for each in _TOGETHER)
            raise TypeError(f"expected {cls.__name__} to need {offered}, got {', '.join(sorted(cls.needs))}")

    def __init__(self, weight: float = 1.0) -> None:
        """
        Args:
            weight: the loss is multiplied by it.
        """
        super().__init__()
        self.weight = weight

    def forward(self, batch: RegionBatch) -> dict[str, Tensor]:
        """The weighted loss under its name."""
        with torch.autocast(batch.embeddings.device.type, enabled=False):
            return {f"loss_{self.name}": self.weight * self.loss(batch)}

    @abstractmethod
    def loss(self, batch: RegionBatch) -> Tensor:
        """0-dim float32; without a region exactly 0, with a gradient path."""

    def extra_repr(self) -> str:
        return f"weight={self.weight}"


def mean_of_rows(losses: Tensor) -> Tensor:
    """The mean of (M,) losses over all processes' rows: with gradients averaged as DDP does, each row counts the same.

    Returns:
        0-dim: this process' part, whose mean over the processes is the mean of all rows. 0 without a row.
    """
    total, processes = losses.new_tensor(float(len(losses))), 1
    if _is_distributed():
        dist.all_reduce(total)
        processes = dist.get_world_size()
    return losses.sum() * processes / total.clamp(min=1)


def gather_rows(rows: Tensor) -> Tensor:
    """(M, ...) of this process -> those of all processes, in their order, with gradient to each; M may differ."""
    if not _is_distributed():
        return rows
    counts = [rows.new_zeros((), dtype=torch.int64) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, torch.tensor(len(rows), device=rows.device))
    padding = rows.new_zeros(int(max(counts)) - len(rows), *rows.shape[1:])
    padded = torch.cat([rows, padding])
    if padded.requires_grad:
        gathered = all_gather(padded)
    else:
        gathered = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(gathered, padded)
    return torch.cat([part[:count] for part, count in zip(gathered, counts, strict=True)])


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1

"""Precomputed proposals, in a json or in detectron2's pickle, and as what the mapper brings in place of an RPN's.

Shape letters: R proposals of one image.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch
from torch import Tensor

from ovdet.arrays import load_arrays
from ovdet.data.coco import Number, listed, read_json
from ovdet.errors import InputError, first_line
from ovdet.typed import checked

logger = logging.getLogger(__name__)

Box = tuple[float, float, float, float]  # XYXY in pixels of the image
Proposals = dict[Any, tuple[list[Box], list[float]]]  # boxes and scores by image id
_XYXY, _XYWH = 0, 1  # of detectron2's BoxMode
_SURE = 1e-6  # how far scores stay from 0 and 1 as logits


class Proposal(msgspec.Struct):
    """A box of a json of proposals, in COCO's result format."""

    image_id: int | str
    bbox: tuple[Number, Number, Number, Number]  # x, y, width, height
    score: Number


class ProposalFile(msgspec.Struct):
    """A json of proposals that says which classes their source was trained on."""

    proposals: list[Proposal]
    training_classes: list[str] | None = None


class Read(NamedTuple):
    """The content of a file of proposals."""

    proposals: Proposals
    training_classes: list[str] | None  # of the proposals' source; None where the file does not say
    are_logits: bool  # scores are logits, not probabilities


def read_proposal_file(path: str | Path) -> Read:
    """Read proposals.

    Args:
        path: a .pkl as detectron2's DATASETS.PROPOSAL_FILES, dicts of arrays, of which no code is run; or a json:
            COCO's result format, a list of {"image_id", "bbox": [x, y, width, height], "score"}, or
            {"training_classes": [names], "proposals": such a list}.

    Raises:
        InputError: it is not there or something else.
    """
    if str(path).endswith((".pkl", ".pickle")):
        return _read_pickle(path)
    content = read_json(path, "a json of proposals")
    found = checked(content, ProposalFile | list[Proposal], "a json of proposals", path)
    named, entries = (None, found) if isinstance(found, list) else (found.training_classes, found.proposals)
    proposals: Proposals = {}
    for entry in entries:
        x, y, width, height = entry.bbox
        boxes, scores = proposals.setdefault(entry.image_id, ([], []))
        boxes.append((x, y, x + width, y + height))
        scores.append(entry.score)
    are_logits = any(not 0 <= score <= 1 for _, scores in proposals.values() for score in scores)
    return Read(proposals, named, are_logits)


def _read_pickle(path: str | Path) -> Read:
    what = "detectron2's proposals (ids, boxes, objectness_logits; a .json else)"
    try:
        content = load_arrays(Path(path).read_bytes())
        old = {"indexes": "ids", "scores": "objectness_logits"}  # as Detectron called them
        content = {old.get(key, key): value for key, value in content.items()}
        ids, boxes, scores = (content[key] for key in ("ids", "boxes", "objectness_logits"))
        mode = int(content.get("bbox_mode", _XYXY))
        proposals: Proposals = {}
        for image_id, rows, logits in zip(ids, boxes, scores, strict=True):
            rows = np.asarray(rows, dtype=np.float64).reshape(-1, 4)
            logits = np.asarray(logits, dtype=np.float64).reshape(len(rows))
            if mode == _XYWH:
                rows = np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:]], axis=1)
            if mode not in (_XYXY, _XYWH) or not np.isfinite(rows).all() or not np.isfinite(logits).all():
                raise ValueError(f"boxes of mode {mode}, or that are not finite")
            key = image_id.item() if hasattr(image_id, "item") else image_id
            if not isinstance(key, (int, str)):
                raise TypeError(f"an image id of type {type(key).__name__}")
            proposals[key] = list(map(tuple, rows.tolist())), logits.tolist()
    except OSError as error:
        raise InputError(f"expected {what}, {path} cannot be read: {error.strerror}") from error
    except Exception as error:  # whatever a damaged pickle raises
        raise InputError(f"expected {what}, {path} is not: {first_line(error)}") from error
    return Read(proposals, None, True)


class PrecomputedProposals:
    """The best proposals of each image out of a file, for the mapper."""

    def __init__(self, path: str | Path, max_proposals: int = 1000) -> None:
        """
        Args:
            path: see read_proposal_file. Scores in [0, 1] are taken for probabilities, others for logits.
            max_proposals: of an image, the best ones.

        Raises:
            InputError: as of read_proposal_file.
        """
        self.path = str(path)
        self.max_proposals = max_proposals
        found = read_proposal_file(path)
        self.training_classes = found.training_classes
        self._by_image = {str(key): self._best(*value, found.are_logits) for key, value in found.proposals.items()}

    def _best(self, boxes: list[Box], scores: list[float], are_logits: bool) -> tuple[Tensor, Tensor]:
        logits = torch.tensor(scores, dtype=torch.float32)
        order = logits.sort(descending=True, stable=True).indices[: self.max_proposals]
        logits = logits[order]
        return torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)[order], logits if are_logits else logits.logit(
            _SURE
        )

    @property
    def header(self) -> dict[str, Any]:
        """The facts that the leak report gives of them."""
        unknown = " (which classes its source knows it does not say)" if self.training_classes is None else ""
        name = Path(self.path).name
        return {"proposal_source": f"{name}{unknown}", "training_classes": list(self.training_classes or ())}

    def check(self, image_ids: list[int | str]) -> None:
        """Refuse a file of other images, and warn of images that it leaves out.

        Raises:
            InputError: none of these images has a proposal.
        """
        lacking = [each for each in image_ids if str(each) not in self._by_image]
        if len(lacking) == len(image_ids):
            ids = ", ".join(list(self._by_image)[:5])
            raise InputError(
                f"expected proposals of the data set's {len(image_ids)} images, {self.path} has only image ids {ids}"
            )
        if lacking:
            some = listed(lacking)
            logger.warning("%d of %d images have no proposals in %s: %s", len(lacking), len(image_ids), self.path, some)

    def __call__(self, image_id: int | str) -> tuple[Tensor, Tensor]:
        """(R, 4) float32 XYXY in pixels of the image as it is, and (R,) logits, best first; R = 0 where it has none."""
        return self._by_image.get(str(image_id), (torch.zeros(0, 4), torch.zeros(0)))

"""Experts: parts that know fixed classes well, and have a say in names that mean one of them.

    score = fused ** (1 - g) * expert ** g

for rows of ClassEmbeddings that mean one of an expert's classes. `expert` is its probability of that class. Other rows
keep their scores. The closed-set expert is here, a frozen detector that proposes boxes too: on a box of its own it says
its probability, elsewhere the least that it reports, so that what it does not see scores lower. Other names may be
found on its boxes. The linear expert is in modeling/linear_expert.py.

Shape letters: R regions of one image, M of them the expert's own, C its classes, J rows that mean one of them, S and Q
rows of ClassEmbeddings, D embedding width, B bins of a distance, N images, A locations of each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary
from torchvision.ops import nms

from ovdet.errors import InputError
from ovdet.initialization import KeepsOwnWeights
from ovdet.modeling.centernet import grid_locations, logit_of_log
from ovdet.modeling.nms import apart, at_least_one, clip
from ovdet.modeling.topk import take
from ovdet.packable import packable

BINS = 8  # a side's distance from 0 to 7 strides, as a distribution (Generalized Focal Loss, arXiv:2006.04388)
SAME = 0.95  # cosine of two names from which on they mean the same: plurals, "cellphone" and "cell phone"
_ROWS_AT_ONCE = 8192


def names_and_synonyms(names: Sequence[str]) -> list[list[str]]:
    """["dog", "couch; sofa"] -> [["dog"], ["couch", "sofa"]]."""
    return [[name.strip() for name in each.split(";")] for each in names]


def known_rows(embeddings: Tensor, rows: Tensor, class_of_row: Tensor) -> tuple[Tensor, Tensor]:
    """The rows that mean one of an expert's classes.

    Args:
        embeddings: (S, D), unit norm.
        rows: (J, D), unit norm, names of its classes.
        class_of_row: (J,) int64.

    Returns:
        Ascending indices (Q,) into the S rows, and the class that each of them means (Q,).
    """
    parts = (embeddings,) if torch.compiler.is_exporting() else embeddings.split(_ROWS_AT_ONCE)
    with torch.autocast(embeddings.device.type, enabled=False):
        best = [(part.to(rows) @ rows.t()).max(1) for part in parts]
    cosines, nearest = (torch.cat(each) for each in zip(*best, strict=True))
    known = (cosines >= SAME).nonzero().squeeze(1)
    return known, class_of_row[nearest[known]]


@dataclass(frozen=True)
class ExpertScores:
    """The say of an expert in one image's regions.

    Attributes:
        log_probabilities: (R, C).
        known: see `known_rows`: embeddings (S, D) to the rows of its classes.
        exponent: g, its weight.
    """

    log_probabilities: Tensor
    known: Callable[[Tensor], tuple[Tensor, Tensor]]
    exponent: float

    def join(self, log_scores: Tensor, embeddings: Tensor) -> Tensor:
        """Fused log scores (R, S) of rows (S, D) -> the same with its say."""
        known, classes = self.known(embeddings)
        joined = torch.lerp(log_scores[:, known], self.log_probabilities[:, classes].to(log_scores), self.exponent)
        return log_scores.index_copy(1, known, joined)


class Expert(KeepsOwnWeights):
    """The classes of an expert, the rows that mean them, and the weight of what it says."""

    def __init__(self, names: Sequence[str], *, width: int, exponent: float) -> None:
        """
        Args:
            names: of its C classes, in the order of its outputs, behind them words that mean the same or less: "couch;
                sofa", "person; man; woman". Of a man it says what it says of a person.
            width: D of the detector's embedding space.
            exponent: g, within [0, 1].

        Raises:
            InputError: an exponent outside of that.
        """
        super().__init__()
        if not 0 <= exponent <= 1:
            raise InputError(f"expected an expert's exponent within [0, 1], got {exponent}")
        self.spoken = names_and_synonyms(names)
        self.names = tuple(name for name, *_ in self.spoken)
        self.exponent = exponent
        classes = [index for index, each in enumerate(self.spoken) for _ in each]
        self.register_buffer("class_of_row", torch.tensor(classes, dtype=torch.int64), persistent=False)
        self.register_buffer("rows", torch.zeros(len(classes), width))
        self._known: WeakIdKeyDictionary = WeakIdKeyDictionary()  # embeddings: (known, classes)

    @property
    def entries(self) -> list[str]:
        """Names with their synonyms, as they were given."""
        return ["; ".join(each) for each in self.spoken]

    def known(self, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """`known_rows` of (S, D), looked for once for each such tensor: those of a ClassEmbeddings do not change."""
        if torch.compiler.is_exporting():
            return known_rows(embeddings, self.rows, self.class_of_row)
        if embeddings not in self._known:
            self._known[embeddings] = known_rows(embeddings, self.rows, self.class_of_row)
        return self._known[embeddings]

    def scores(self, log_probabilities: Tensor) -> ExpertScores:
        """(R, C) of an image's regions, see ExpertScores."""
        return ExpertScores(log_probabilities, self.known, self.exponent)

    def _load_from_state_dict(self, *arguments) -> None:
        self._known.clear()  # of other rows
        super()._load_from_state_dict(*arguments)


@packable
class ClosedSetExpert(Expert):
    """The last layers of a detector with Generalized Focal Loss heads (NanoDet-Plus), on maps that the backbone has."""

    def __init__(
        self,
        names: Sequence[str],
        *,
        width: int,
        in_features: Sequence[str] = ("nanodet8", "nanodet16", "nanodet32", "nanodet64"),
        strides: Sequence[int] = (8, 16, 32, 64),
        channels: int = 96,
        exponent: float = 0.7,
        score_threshold: float = 0.03,
        nms_threshold: float = 0.6,
        pre_nms_topk: int = 500,
        post_nms_topk: int = 100,
        weights: Mapping[str, Tensor] | None = None,
    ) -> None:
        """
        Args:
            names: see Expert.
            width: D of the detector's embedding space.
            in_features: maps of `strides`, with `channels`.
            strides: of these maps.
            channels: of these maps.
            exponent: g, within [0, 1].
            score_threshold: boxes of lower probability are none.
            nms_threshold: IoU, among boxes of one most probable class.
            pre_nms_topk: locations of each map that are looked at.
            post_nms_topk: boxes at most.
            weights: "rows", the embeddings (J, D) of all names and synonyms, and "heads.0.weight", ...; None: rows of
                zeros, which mean nothing, and random heads.

        Raises:
            InputError: an exponent or a threshold outside of that.
        """
        super().__init__(names, width=width, exponent=exponent)
        if not 0 < score_threshold < 1:
            raise InputError(f"expected an expert's score_threshold between 0 and 1, got {score_threshold}")
        self.in_features, self.strides = tuple(in_features), tuple(strides)
        self.score_threshold, self.nms_threshold = score_threshold, nms_threshold
        self.pre_nms_topk, self.post_nms_topk = pre_nms_topk, post_nms_topk
        outputs = len(self.names) + 4 * BINS
        self.heads = nn.ModuleList(nn.Conv2d(channels, outputs, 1) for _ in strides)
        self.build_with(weights)
        self.requires_grad_(False)

    def join_proposals(
        self, proposals: list[Instances], features: Mapping[str, Tensor]
    ) -> tuple[list[Instances], list[Tensor]]:
        """Proposals with its own behind them, and what it says of all of each image, log-probabilities (R, C)."""
        maps, joined, said = [features[name] for name in self.in_features], [], []
        for index, others in enumerate(proposals):
            given = others.proposal_boxes.tensor, others.objectness_logits, [each[index : index + 1] for each in maps]
            boxes, logits, log_probabilities = self.add_to(*given, others.image_size)
            joined.append(Instances(others.image_size, proposal_boxes=Boxes(boxes), objectness_logits=logits))
            said.append(log_probabilities)
        return joined, said

    def add_to(
        self, boxes: Tensor, objectness_logits: Tensor, maps: Sequence[Tensor], size: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One image's regions with its own behind them.

        Args:
            boxes: (R - M, 4) XYXY of the other regions.
            objectness_logits: (R - M,).
            maps: see `find`.
            size: (height, width).

        Returns:
            Boxes (R, 4), logits (R,), and what it says of them, log-probabilities (R, C).
        """
        own, log_probabilities = self.find(maps, size)
        least = torch.full_like(log_probabilities[:1], self.score_threshold).log()
        said = torch.cat([least.expand(boxes.shape[0], -1), log_probabilities.clamp(min=least)])
        logits = logit_of_log(log_probabilities.amax(1)).to(objectness_logits)
        return torch.cat([boxes, own.to(boxes)]), torch.cat([objectness_logits, logits]), said

    def find(self, maps: Sequence[Tensor], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Its boxes in one image, the most probable first.

        Args:
            maps: (1, channels, H / stride, W / stride), of `in_features`.
            size: (height, width) of the image, which boxes are clipped to.

        Returns:
            (M, 4) XYXY, M >= 1, and the log-probabilities of its classes (M, C).
        """
        boxes, log_probabilities = (each[0] for each in self.locate(maps))
        boxes = clip(boxes, size)
        best, classes = log_probabilities.max(1)
        least = torch.full_like(best[:1], self.score_threshold).log()
        index = (best >= torch.minimum(least, best.amax(0))).nonzero().squeeze(1)  # one at least
        keep = nms(apart(boxes[index], classes[index]), best[index], self.nms_threshold)
        index = index[at_least_one(keep[: self.post_nms_topk])]
        return boxes[index], log_probabilities[index]

    def locate(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The boxes of the most probable locations of each map, before NMS.

        Args:
            maps: (N, channels, H / stride, W / stride), of `in_features`.

        Returns:
            (N, A, 4) XYXY, which may leave the images, and the log-probabilities of its classes (N, A, C).
        """
        boxes, logits = [], []
        for head, x, stride in zip(self.heads, maps, self.strides, strict=True):
            outputs = head(x).float().flatten(2).transpose(1, 2)  # (N, locations, C + 4 B)
            of_classes, bins = outputs.split([len(self.names), 4 * BINS], 2)
            index = of_classes.amax(2).topk(torch.sym_min(outputs.shape[1], self.pre_nms_topk)).indices  # (N, n)
            steps = torch.arange(BINS, device=x.device, dtype=bins.dtype) * stride
            distances = take(bins, index).unflatten(2, (4, BINS)).softmax(3) @ steps  # (N, n, 4), pixels
            center = grid_locations(x.shape[2], x.shape[3], stride, x.device)[index] - stride // 2  # NanoDet's corner
            boxes.append(torch.cat([center - distances[..., :2], center + distances[..., 2:]], 2))
            logits.append(take(of_classes, index))
        return torch.cat(boxes, 1), nn.functional.logsigmoid(torch.cat(logits, 1))

"""Sources of the boxes of a region store: ground truth of base classes, a detector's RPN, or a file.

Shape letters: M boxes of one image.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from detectron2.structures import BoxMode
from omegaconf import DictConfig

from ovdet.data.coco import listed
from ovdet.data.proposal_files import Proposals, read_proposal_file
from ovdet.engine.checkpoint import HEADER, known_classes, read_checkpoint
from ovdet.engine.config import plain_values
from ovdet.errors import InputError
from ovdet.files import file_sha256
from ovdet.hub.load import find_weights
from ovdet.text.class_names import normalize_class_name

logger = logging.getLogger(__name__)

NMS_THRESHOLD = 0.7  # IoU above which the less object-like of two proposals goes (ViLD's RPN)
_PROPOSING = ("backbone", "proposal_generator", "pixel_mean", "pixel_std", "input_format")  # parts of a model
NO_NMS = 1.0  # ground truth: what lies over each other is different objects


class ProposalSource(NamedTuple):
    """The boxes of a store that are known beforehand, and a description of where they come from.

    Attributes:
        proposals: those that are known before an image is read.
        metadata: what the plan notes: "source" in words, "training_classes" whose boxes the source knows,
            "nms_threshold", and digests of whatever else decides about the boxes.
        weights: of the detector whose RPN proposes more; "" where none does.
    """

    proposals: Proposals
    metadata: dict[str, Any]
    weights: str = ""


def from_ground_truth(dicts: Sequence[Mapping[str, Any]], base_classes: Sequence[str]) -> ProposalSource:
    """The annotated boxes, each with score 1.

    Args:
        dicts: detectron2's dataset dicts, with annotations of base classes alone.
        base_classes: their names.
    """
    metadata = {"source": "base ground truth", "training_classes": list(base_classes), "nms_threshold": NO_NMS}
    return ProposalSource(_annotated_boxes(dicts), metadata)


def _annotated_boxes(dicts: Sequence[Mapping[str, Any]]) -> Proposals:
    proposals: Proposals = {}
    for record in dicts:
        boxes = [
            tuple(BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS))
            for annotation in record.get("annotations", ())
            if not annotation.get("iscrowd", 0)
        ]
        proposals[record["image_id"]] = (boxes, [1.0] * len(boxes))
    return proposals


def from_rpn(
    config: DictConfig, weights: str, dicts: Sequence[Mapping[str, Any]], base_classes: Sequence[str]
) -> ProposalSource:
    """The annotated boxes and, of each image, the proposals of a trained detector's RPN.

    Args:
        config: of the detector.
        weights: see `find_weights`.
        dicts: as of `from_ground_truth`.
        base_classes: likewise.

    Raises:
        InputError: there are no weights, or they do not say which classes they were trained on.
    """
    if config.model.proposal_generator is None:
        raise InputError("expected a detector with an RPN, got one of precomputed proposals: give --proposal-file")
    weights = find_weights(config, weights)
    trained_on = known_classes(read_checkpoint(weights)[HEADER])
    if trained_on is None:
        raise InputError(f"expected weights that say which classes they were trained on, {weights} do not")
    known = {normalize_class_name(name) for name in trained_on}
    others = [name for name in base_classes if normalize_class_name(name) not in known]
    metadata = {
        "source": f"base ground truth and RPN of {Path(weights).name}",
        "training_classes": [*trained_on, *others],
        "nms_threshold": NMS_THRESHOLD,
        "weights_sha256": file_sha256(weights),
        "detector": _detector_digest(config),
    }
    return ProposalSource(_annotated_boxes(dicts), metadata, str(Path(weights).absolute()))


def _detector_digest(config: DictConfig) -> str:
    """A digest of the config's backbone, RPN and test-time resizing, on which proposals depend besides the weights."""
    plain = plain_values(config)  # a config's .py holds objects, the .yaml of a run their names
    parts = [plain["model"][key] for key in _PROPOSING] + [plain["dataloader"]["test"]["mapper"]["augmentations"]]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def from_file(path: str, classes: Sequence[str] | None, dicts: Sequence[Mapping[str, Any]]) -> ProposalSource:
    """The boxes of a file.

    Args:
        path: see `read_proposal_file`.
        classes: the names that its source was trained on, [] for none; needed where the file does not say.
        dicts: of the data set.

    Raises:
        InputError: another format, nobody says what the source was trained on, or it has no box of these images.
    """
    if not path:
        raise InputError("expected --proposal-file FILE with proposals from a file, got none")
    proposals, named, _ = read_proposal_file(path)
    names = named if classes is None else classes
    if names is None:
        raise InputError(f"expected the classes that the proposals' source was trained on, {path} does not say: "
                         "give --proposal-classes (none: \"\")")  # fmt: skip
    if named is not None and list(names) != list(named):
        raise InputError(f"expected the training classes that {path} names, {listed(named)}, got {listed(names)}")
    lacking = [record["image_id"] for record in dicts if record["image_id"] not in proposals]
    if len(lacking) == len(dicts):
        ids = listed(sorted(map(str, proposals)))
        raise InputError(f"expected proposals of the data set's {len(dicts)} images, {path} has only image ids {ids}")
    if lacking:
        logger.warning("%d of %d images have no proposals in %s: %s", len(lacking), len(dicts), path, listed(lacking))
    metadata = {
        "source": Path(path).name,
        "training_classes": list(names),
        "nms_threshold": NMS_THRESHOLD,
        "file_sha256": file_sha256(path),
    }
    return ProposalSource(proposals, metadata)

"""What an extraction of regions is to do: which photos, which boxes, which teacher. All checks come before the work.

Shape letters: M boxes of one photo.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from detectron2.config import instantiate
from detectron2.config.instantiate import locate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from omegaconf import DictConfig, OmegaConf

import ovdet.data.catalog  # noqa: F401 (makes its data sets known by name)
from ovdet.data.coco import listed, read_json
from ovdet.data.dataset import load_coco_subsets
from ovdet.engine.checkpoint import HEADER, known_classes, read_checkpoint
from ovdet.engine.config import prepare_dataset
from ovdet.errors import InputError
from ovdet.files import file_sha256
from ovdet.hub.load import find_weights
from ovdet.regions.plan import Photo, RegionPlan
from ovdet.teachers.crops import RegionEmbedder
from ovdet.teachers.registry import load_teacher
from ovdet.text.class_names import names_among, normalize_class_name

NMS_THRESHOLD = 0.7  # IoU above which the less object-like of two proposals goes (ViLD's RPN)
NO_NMS = 1.0  # ground truth: what lies over each other is different objects

Box = tuple[float, float, float, float]  # XYXY in pixels of the photo
Given = dict[Any, tuple[list[Box], list[float]]]  # boxes and scores by image id


@dataclass(frozen=True)
class ExtractOptions:
    """What a user asks for; "" where the config decides.

    Attributes:
        output: the folder of the store.
        teacher: its name; "": the config's.
        dataset: a registered data set; "": the config's training set.
        annotations: a COCO-format json instead of a registered data set, with `images` and perhaps `split`.
        images: the folder of that json's photos.
        split: a split json: then boxes of base classes only are used; "": every class is a base class.
        proposals: one of PROPOSALS.
        weights: of the detector whose RPN proposes; "": the config's last checkpoint.
        proposal_file: a json of boxes; see read_proposals.
        proposal_classes: the class names that the source of that file was trained on, if the file does not say.
        max_regions: of one photo.
        photos_per_shard: what an interruption can cost.
        resume: go on with a store that was begun.
        processes: how many share the work, each with a GPU of its own where there are GPUs.
        command: noted in the store: what goes on with it.
    """

    output: str
    teacher: str = ""
    dataset: str = ""
    annotations: str = ""
    images: str = ""
    split: str = ""
    proposals: str = "rpn"
    weights: str = ""
    proposal_file: str = ""
    proposal_classes: tuple[str, ...] | None = None
    max_regions: int = 300
    photos_per_shard: int = 64
    resume: bool = False
    processes: int = 1
    command: str = ""


class PhotoJob(NamedTuple):
    """All that a process must know of one photo."""

    image_id: int | str
    file_name: str
    height: int
    width: int
    boxes: list[Box]  # what is known beforehand: ground truth, or a file's proposals
    scores: list[float]


Shards = list[tuple[int, list[PhotoJob]]]  # numbers, each with its photos


class ExtractJob(NamedTuple):
    """What the processes share."""

    plan: RegionPlan
    photos: list[PhotoJob]  # in the plan's order
    weights: str  # of the detector whose RPN proposes; "" where none does


class Data(NamedTuple):
    """A data set, base annotations only."""

    name: str
    json_file: str  # "" where it has none
    photo_root: str
    dicts: list[dict[str, Any]]
    base_classes: list[str]
    novel_classes: list[str]


class Source(NamedTuple):
    """Where boxes come from."""

    given: Given
    facts: dict[str, Any]  # for the plan; "source" and "training_classes" are among them
    weights: str = ""


def plan_extraction(config: DictConfig, options: ExtractOptions) -> ExtractJob:
    """Read and check everything that decides about the contents of a store.

    Raises:
        InputError: data set, proposals, weights or teacher are not there or do not fit, or the boxes' source knows
            novel classes.
    """
    if options.proposals not in PROPOSALS:
        raise InputError(f"expected proposals out of {', '.join(PROPOSALS)}, got {options.proposals!r}")
    for name in ("max_regions", "photos_per_shard", "processes"):
        if getattr(options, name) < 1:
            raise InputError(f"expected {name} of at least 1, got {getattr(options, name)}")
    data = _read_data(config, options)
    source = PROPOSALS[options.proposals](config, options, data)
    _check_novel(source.facts, data)
    teacher = RegionEmbedder(load_teacher(options.teacher or config.teacher.name))
    plan = RegionPlan(
        teacher=teacher.name,
        fingerprint=teacher.fingerprint,
        width=teacher.width,
        crops={"scales": list(teacher.scales), "resize": "bicubic", "size": list(teacher.teacher.input_size)},
        dataset={"name": data.name, "sha256": file_sha256(data.json_file) if data.json_file else ""},
        proposals=source.facts,
        max_regions=options.max_regions,
        photos_per_shard=options.photos_per_shard,
        photos=tuple(_photo(record, data.photo_root) for record in data.dicts),
        photo_root=data.photo_root,
        command=options.command,
    )
    nothing: tuple[list[Box], list[float]] = ([], [])
    photos = [
        PhotoJob(record["image_id"], str(Path(record["file_name"]).absolute()), record["height"], record["width"],
                 *source.given.get(record["image_id"], nothing))
        for record in data.dicts
    ]  # fmt: skip
    return ExtractJob(plan, photos, source.weights and str(Path(source.weights).absolute()))


def _photo(record: Mapping[str, Any], root: str) -> Photo:
    file = Path(record["file_name"]).absolute()
    name = file.relative_to(root) if root and file.is_relative_to(root) else file
    return Photo(record["image_id"], str(name), record["height"], record["width"])


def _read_data(config: DictConfig, options: ExtractOptions) -> Data:
    if options.annotations:
        if not options.images or options.dataset:
            raise InputError("expected --annotations with --images and without --dataset")
        split = options.split or None
        loaded = load_coco_subsets(options.annotations, options.images, split, is_train=True, filter_empty=False)
        name, root = Path(options.annotations).stem, str(Path(options.images).absolute())
        return Data(name, options.annotations, root, loaded.dicts, loaded.thing_classes, loaded.novel_classes)
    if options.images or options.split:
        raise InputError("expected --images and --split with --annotations, got them without it")
    if options.dataset:
        if options.dataset not in DatasetCatalog:
            raise InputError(f"expected a registered data set, got {options.dataset!r}")
        name, dicts = options.dataset, DatasetCatalog.get(options.dataset)
    else:
        prepare_dataset(config)
        name = instantiate(config.dataloader.train.dataset.names)
        dicts = instantiate(config.dataloader.train.dataset)
    metadata = MetadataCatalog.get(name)
    root = metadata.get("image_root", "")
    return Data(name, metadata.get("json_file", ""), str(Path(root).absolute()) if root else "", dicts,
                list(metadata.thing_classes), list(metadata.get("novel_classes", [])))  # fmt: skip


def _check_novel(facts: Mapping[str, Any], data: Data) -> None:
    known = names_among(facts["training_classes"], data.novel_classes)
    if known:
        raise InputError(
            f"expected proposals that know no novel class of {data.name}, {facts['source']} knows {listed(known)}"
        )


def _ground_truth(data: Data) -> Given:
    """Base boxes, each with score 1."""
    given: Given = {}
    for record in data.dicts:
        boxes = [
            tuple(BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS))
            for annotation in record.get("annotations", ())
            if not annotation.get("iscrowd", 0)
        ]
        given[record["image_id"]] = (boxes, [1.0] * len(boxes))
    return given


def _from_ground_truth(config: DictConfig, options: ExtractOptions, data: Data) -> Source:
    facts = {"source": "base ground truth", "training_classes": data.base_classes, "nms_threshold": NO_NMS}
    return Source(_ground_truth(data), facts)


def _from_rpn(config: DictConfig, options: ExtractOptions, data: Data) -> Source:
    weights = find_weights(config, options.weights)
    trained_on = known_classes(read_checkpoint(weights)[HEADER])
    if trained_on is None:
        raise InputError(f"expected weights that say which classes they were trained on, {weights} do not")
    known = {normalize_class_name(name) for name in trained_on}
    facts = {
        "source": f"base ground truth and RPN of {Path(weights).name}",
        "training_classes": [
            *trained_on,
            *(name for name in data.base_classes if normalize_class_name(name) not in known),
        ],
        "nms_threshold": NMS_THRESHOLD,
        "weights_sha256": file_sha256(weights),
        "detector": _detector_digest(config),
    }
    return Source(_ground_truth(data), facts, weights)


def _detector_digest(config: DictConfig) -> str:
    """Of what decides about proposals besides the weights: the network up to the RPN, and the size of its input."""
    model, mapper = config.model, config.dataloader.test.mapper
    parts = [model.backbone, model.proposal_generator, model.pixel_mean, model.pixel_std, mapper.augmentations]
    plain = [_plain(OmegaConf.to_container(part, resolve=True)) for part in parts]
    return hashlib.sha256(json.dumps([*plain, model.input_format], sort_keys=True).encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    """A config's values with its targets as names: a config's .py holds objects, the .yaml of a run their names."""
    if isinstance(value, Mapping):
        return {
            key: _plain(locate(part) if key == "_target_" and isinstance(part, str) else part)
            for key, part in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return f"{value.__module__}.{value.__qualname__}" if callable(value) else value


def _from_file(config: DictConfig, options: ExtractOptions, data: Data) -> Source:
    if not options.proposal_file:
        raise InputError("expected --proposal-file FILE with proposals from a file, got none")
    given, classes = read_proposals(options.proposal_file, options.proposal_classes)
    if not any(record["image_id"] in given for record in data.dicts):
        raise InputError(f"expected proposals of the {len(data.dicts)} photos of {data.name}, {options.proposal_file} "
                         f"has only other image ids: {listed(sorted(map(str, given)))}")  # fmt: skip
    facts = {
        "source": Path(options.proposal_file).name,
        "training_classes": list(classes),
        "nms_threshold": NMS_THRESHOLD,
        "file_sha256": file_sha256(options.proposal_file),
    }
    return Source(given, facts)


PROPOSALS = {"rpn": _from_rpn, "file": _from_file, "ground-truth": _from_ground_truth}


def read_proposals(path: str | Path, classes: Sequence[str] | None = None) -> tuple[Given, Sequence[str]]:
    """Read a json of proposals.

    Args:
        path: COCO's result format, a list of {"image_id", "bbox": [x, y, width, height], "score"}, or
            {"training_classes": [names], "proposals": such a list}.
        classes: the names that the proposals' source was trained on, [] for none; needed where the file does not say.

    Returns:
        Boxes and scores by image id, and the class names.

    Raises:
        InputError: another format, or nobody says what the source was trained on.
    """
    content = read_json(path, "a json of proposals")
    named = content.get("training_classes") if isinstance(content, dict) else None
    entries = content.get("proposals") if isinstance(content, dict) else content
    names = named if classes is None else classes
    if names is None:
        raise InputError(f"expected the classes that the proposals' source was trained on, {path} does not say: "
                         "give --proposal-classes (none: \"\")")  # fmt: skip
    if named is not None and list(names) != list(named):
        raise InputError(f"expected the training classes that {path} names, {listed(named)}, got {listed(names)}")
    if not isinstance(entries, list):
        raise InputError(f"expected a list of proposals in {path}, got {type(entries).__name__}")
    given: Given = {}
    for position, entry in enumerate(entries):
        image_id, box, score = _checked_proposal(entry, position, path)
        boxes, scores = given.setdefault(image_id, ([], []))
        boxes.append(box)
        scores.append(score)
    return given, names


def _checked_proposal(entry: Any, position: int, path: str | Path) -> tuple[Any, Box, float]:
    try:
        x, y, width, height = (float(value) for value in entry["bbox"])
        image_id, score = entry["image_id"], float(entry["score"])
    except (TypeError, KeyError, ValueError, IndexError) as error:
        raise InputError(
            f"expected proposals with image_id, bbox [x, y, width, height] and score in {path}, entry {position} "
            f"is {str(entry)[:100]}"
        ) from error
    if not all(map(math.isfinite, (x, y, width, height, score))) or not isinstance(image_id, (int, str)):
        raise InputError(f"expected finite proposals in {path}, entry {position} is {str(entry)[:100]}")
    return image_id, (x, y, x + width, y + height), score

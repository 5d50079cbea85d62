"""Planning an extraction: its images, boxes and teacher are read and checked before the work begins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from detectron2.config import instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from omegaconf import DictConfig

import ovdet.data.catalog  # noqa: F401 (makes its data sets known by name)
from ovdet.data.coco import listed
from ovdet.data.dataset import load_coco_subsets
from ovdet.data.leakage import same_meaning
from ovdet.data.proposal_files import Box
from ovdet.engine.config import prepare_dataset
from ovdet.errors import InputError
from ovdet.files import file_sha256
from ovdet.regions.plan import ImageRecord, RegionPlan
from ovdet.regions.proposals import ProposalSource, from_file, from_ground_truth, from_rpn
from ovdet.teachers.crops import RegionEmbedder
from ovdet.teachers.registry import load_teacher

PROPOSALS = ("file", "ground-truth", "rpn")


@dataclass(frozen=True)
class ExtractOptions:
    """The options of an extraction; "" where the config decides.

    Attributes:
        output: the folder of the store.
        teacher: its name; "": the config's.
        dataset: a registered data set; "": the config's training set.
        annotations: a COCO-format json instead of a registered data set, with `images` and perhaps `split`.
        images: the folder of that json's images.
        split: a split json: then boxes of base classes only are used; "": every class is a base class.
        proposals: one of PROPOSALS.
        weights: of the detector whose RPN proposes; "": the config's last checkpoint.
        proposal_file: a json of boxes; see read_proposal_file.
        proposal_classes: the class names that the source of that file was trained on, if the file does not say.
        max_regions: of one image.
        images_per_shard: how many images an interruption can cost.
        resume: go on with a store that was begun.
        processes: how many share the work, each with a GPU of its own where there are GPUs.
        command: noted in the store: the command that resumes it.
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
    images_per_shard: int = 64
    resume: bool = False
    processes: int = 1
    command: str = ""


class ImageJob(NamedTuple):
    """One image to be read, with the boxes that are known before."""

    image_id: int | str
    file_name: str
    height: int
    width: int
    boxes: list[Box]
    scores: list[float]


Shards = list[tuple[int, list[ImageJob]]]  # numbers, each with its images


class ExtractJob(NamedTuple):
    """A plan and all that a process needs to carry it out."""

    plan: RegionPlan
    images: list[ImageJob]  # in the plan's order
    weights: str  # of the detector whose RPN proposes; "" where none does


class _Data(NamedTuple):
    """A data set with its annotations of base classes alone."""

    name: str
    json_file: str  # "" where it has none
    image_root: str
    dicts: list[dict[str, Any]]
    base_classes: list[str]
    novel_classes: list[str]


def plan_extraction(config: DictConfig, options: ExtractOptions) -> ExtractJob:
    """Read and check everything that decides about the contents of a store.

    Raises:
        InputError: data set, proposals, weights or teacher are not there or do not fit, or the boxes' source knows
            novel classes.
    """
    if options.proposals not in PROPOSALS:
        raise InputError(f"expected proposals out of {', '.join(PROPOSALS)}, got {options.proposals!r}")
    for option, value in (("file", options.proposal_file), ("classes", options.proposal_classes)):
        if value not in ("", None) and options.proposals != "file":
            raise InputError(f"expected --proposal-{option} with --proposals file, got it with {options.proposals}")
    for name in ("max_regions", "images_per_shard", "processes"):
        if getattr(options, name) < 1:
            raise InputError(f"expected {name} of at least 1, got {getattr(options, name)}")
    # what decides
    data = _read_data(config, options)
    source = _proposal_source(config, options, data)
    teacher = RegionEmbedder(load_teacher(options.teacher or config.teacher.name))
    plan = RegionPlan(
        teacher=teacher.name,
        fingerprint=teacher.fingerprint,
        width=teacher.width,
        crops={"scales": list(teacher.scales), "resize": "bicubic", "size": list(teacher.teacher.input_size)},
        dataset={"name": data.name, "sha256": file_sha256(data.json_file) if data.json_file else ""},
        proposals=source.metadata,
        max_regions=options.max_regions,
        images_per_shard=options.images_per_shard,
        images=tuple(_image_record(record, data.image_root) for record in data.dicts),
        image_root=data.image_root,
        command=options.command,
    )
    # the work
    images = []
    for record in data.dicts:
        boxes, scores = source.proposals.get(record["image_id"], ([], []))
        file_name = str(Path(record["file_name"]).absolute())
        images.append(ImageJob(record["image_id"], file_name, record["height"], record["width"], boxes, scores))
    return ExtractJob(plan, images, source.weights)


def _image_record(record: Mapping[str, Any], root: str) -> ImageRecord:
    file = Path(record["file_name"]).absolute()
    name = file.relative_to(root) if root and file.is_relative_to(root) else file
    return ImageRecord(record["image_id"], str(name), record["height"], record["width"])


def _read_data(config: DictConfig, options: ExtractOptions) -> _Data:
    # a json
    if options.annotations:
        if not options.images or options.dataset:
            raise InputError("expected --annotations with --images and without --dataset")
        split = options.split or None
        loaded = load_coco_subsets(options.annotations, options.images, split, is_train=True, filter_empty=False)
        name, root = Path(options.annotations).stem, str(Path(options.images).absolute())
        return _Data(name, options.annotations, root, loaded.dicts, loaded.thing_classes, loaded.novel_classes)
    if options.images or options.split:
        raise InputError("expected --images and --split with --annotations, got them without it")
    # a registered data set
    if options.dataset:
        if options.dataset not in DatasetCatalog:
            raise InputError(f"expected a registered data set, got {options.dataset!r}")
        name, dicts = options.dataset, DatasetCatalog.get(options.dataset)
    else:
        prepare_dataset(config)
        name = instantiate(config.dataloader.train.dataset.names)
        dicts = instantiate(config.dataloader.train.dataset)
    metadata = MetadataCatalog.get(name)
    json_file, root = metadata.get("json_file", ""), metadata.get("image_root", "")
    root = str(Path(root).absolute()) if root else ""
    novel = list(metadata.get("novel_classes", []))
    return _Data(name, json_file, root, dicts, list(metadata.thing_classes), novel)


def _proposal_source(config: DictConfig, options: ExtractOptions, data: _Data) -> ProposalSource:
    """The source of the boxes; refused if it was trained on a novel class."""
    if options.proposals == "ground-truth":
        source = from_ground_truth(data.dicts, data.base_classes)
    elif options.proposals == "rpn":
        source = from_rpn(config, options.weights, data.dicts, data.base_classes)
    else:
        source = from_file(options.proposal_file, options.proposal_classes, data.dicts)
    known = same_meaning(source.metadata["training_classes"], data.novel_classes)
    if known:
        name = source.metadata["source"]
        raise InputError(f"expected proposals that know no novel class of {data.name}, {name} knows {listed(known)}")
    return source

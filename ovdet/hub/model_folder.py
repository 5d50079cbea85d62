"""A trained detector as a folder to be passed on: config.json, model.safetensors, names and a model card, README.md.

A training run's config.yaml is a program; a folder from somewhere else must not be one. config.json is plain data: the
names of the detector's parts, see parts.py, and what they are built with. Weights are kept in half precision.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from detectron2.config import LazyCall, instantiate
from detectron2.data import build_detection_test_loader, get_detection_dataset_dicts
from detectron2.data import transforms as T
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ovdet.data.mapper import OpenVocabMapper
from ovdet.engine.checkpoint import HEADER, known_classes, read_checkpoint
from ovdet.engine.options import TrainOptions
from ovdet.errors import InputError, first_line
from ovdet.files import atomic_write, check_place, temporary_path
from ovdet.hub.load import check_own, find_weights, load_detector, with_expert_names, without_training
from ovdet.hub.parts import check_build, check_parts, part_name, to_data
from ovdet.modeling.linear_expert import LinearExpert
from ovdet.text.class_names import distinct_names
from ovdet.text.embedder import NameEmbedder
from ovdet.text.embeddings import TextEmbeddings
from ovdet.text.prompts import resolve_templates
from ovdet.typed import checked, decoded

logger = logging.getLogger(__name__)

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
NAMES = "names.safetensors"  # embeddings of the names that the detector knows: asked for them it needs no text encoder
FORMAT, _FORMAT_0_1 = "ovdet model 2", "ovdet model 1"
Width = Annotated[int, msgspec.Meta(ge=1, le=65_536)]
Templates = str | Annotated[list[str], msgspec.Meta(max_length=1000)]


class Resize(msgspec.Struct, forbid_unknown_fields=True):
    """Resizing of photos: pixels of the shorter side, and of the longer one at most."""

    short_edge_length: Annotated[int, msgspec.Meta(ge=1, le=8192)]
    max_size: Annotated[int, msgspec.Meta(ge=1, le=32_768)]


class TeacherEntry(msgspec.Struct):
    """The teacher whose space the detector's embeddings are in."""

    name: str
    width: Width
    templates: Templates
    fingerprint: str


class ModelEntry(msgspec.Struct):
    """The model's parts, into which `check_build` looks."""

    target: str = msgspec.field(name="_target_")
    roi_heads: dict[str, Any]


class ModelConfig(msgspec.Struct):
    """The content of config.json."""

    format: Literal[FORMAT]
    model: ModelEntry
    teacher: TeacherEntry
    resize: Resize


def write_model_folder(
    config: DictConfig, weights: str, folder: str | Path, *, card: str, linear_expert: LinearExpert | None = None
) -> dict[str, Any]:
    """Write a trained detector as a model folder.

    Args:
        config: of the detector, see `load_config`.
        weights: as for `load_detector`.
        folder: created; files of these names in it are replaced.
        card: the text of README.md, Markdown.
        linear_expert: takes the place of the detector's own; None leaves that.

    Returns:
        The content of config.json.

    Raises:
        InputError: config or weights are not there or do not fit, the detector has a part that a folder cannot name,
            or the folder cannot be written to.
    """
    folder = Path(folder)
    check_model_folder(folder)
    check_own(config)
    config = _with_training_classes(config, weights)
    detector, embed_names, header = load_detector(config, weights)
    if linear_expert is not None:
        config = _with_linear_expert(config, linear_expert)
        detector.roi_heads.linear_expert = linear_expert
        header = with_expert_names(header, detector)
    content = {
        "format": FORMAT,
        "teacher": {
            "name": embed_names.teacher_name,
            "width": embed_names.width,
            "templates": embed_names.templates,
            "fingerprint": header.get("fingerprint") or embed_names.fingerprint,
        },
        "resize": read_resize(instantiate(config.dataloader.test.mapper.augmentations)),
        "model": to_data(without_training(config).model),
    }
    check_parts(content["model"], "the config")
    names = known_names(embed_names, header)
    save_model_folder(folder, content, detector.state_dict(), header=header, card=card, names=names)
    return content


def known_names(embed_names: NameEmbedder, header: Mapping[str, Any]) -> TextEmbeddings | None:
    """Embeddings of the names that a detector was trained on, by its text encoder.

    Args:
        embed_names: of the detector.
        header: of its checkpoint.

    Returns:
        None where the header names none, or the text encoder cannot be had.
    """
    names = embed_names.known_of(distinct_names(known_classes(header) or ()))
    if not names:
        return None
    try:
        matrix, fingerprint = embed_names(names), embed_names.fingerprint
    except InputError as error:
        logger.warning("packed without embeddings of the trained names, each use asks the text encoder: %s", error)
        return None
    return TextEmbeddings(
        matrix, names, resolve_templates(embed_names.templates), embed_names.teacher_name, fingerprint
    )


def save_model_folder(
    folder: str | Path,
    content: Mapping[str, Any],
    state: Mapping[str, Tensor],
    *,
    header: Mapping[str, Any],
    card: str,
    half: bool = True,
    names: TextEmbeddings | None = None,
) -> None:
    """Write the files of a model folder.

    Args:
        folder: created; files of these names in it are replaced.
        content: of config.json.
        state: the detector's weights.
        header: the checkpoint's.
        card: the text of README.md, Markdown.
        half: weights in half precision.
        names: see `known_names`.

    Raises:
        InputError: the folder holds something else, or cannot be written to.
    """
    folder = Path(folder)
    check_model_folder(folder)
    # weights first and config last: a folder without a config is no detector, and a full disk leaves an older one
    kept = {key: (value.half() if half and value.is_floating_point() else value).contiguous()
            for key, value in state.items()}  # fmt: skip
    with temporary_path(folder / WEIGHTS) as part:
        with open(part, "xb") as stream:
            stream.write(save(kept, {HEADER: json.dumps(dict(header))}))
            stream.flush()
            os.fsync(stream.fileno())
        with contextlib.suppress(OSError):
            for older in (CONFIG, NAMES):  # they would not fit the new weights
                (folder / older).unlink(missing_ok=True)
    if names is not None:
        names.save(folder / NAMES)
    atomic_write(folder / CARD, card.encode())
    atomic_write(folder / CONFIG, (json.dumps(content, indent=1) + "\n").encode())


def _with_training_classes(config: DictConfig, weights: str) -> DictConfig:
    """A closed-set detector's config with its classes as the checkpoint has them: no data set need be there.

    Raises:
        InputError: the checkpoint is not there, or does not say.
    """
    if "training_classes" not in config.model:
        return config
    weights = find_weights(config, weights)
    names = read_checkpoint(weights)[HEADER].get("training_classes")
    if not names:
        raise InputError(f"expected a checkpoint that says which classes it was trained on, {weights} does not")
    config = deepcopy(config)
    config.model.training_classes = list(names)
    return config


def _with_linear_expert(config: DictConfig, expert: LinearExpert) -> DictConfig:
    """A copy of a detector's config that has this linear expert."""
    config = deepcopy(config)
    shape = dict(width=expert.rows.shape[1], in_features=expert.weight.shape[1])
    node = LazyCall(LinearExpert)(names=expert.entries, exponent=expert.exponent, **shape)
    config.model.roi_heads.linear_expert = node
    return config


def check_model_folder(folder: str | Path) -> None:
    """Refuse a folder that a detector cannot be written to, before there is one.

    Raises:
        InputError: it cannot be made or written to; or it has a config.json or a README.md, and is no older detector's.
    """
    folder = Path(check_place(folder, is_folder=True))
    config = folder / CONFIG
    if config.is_file():
        text = config.read_text(encoding="utf-8", errors="replace")
        is_ours = f'"{_FORMAT_0_1}"' in text or f'"{FORMAT}"' in text
    else:
        is_ours = (folder / WEIGHTS).exists() or not (folder / CARD).exists()
    if not is_ours:
        raise InputError(
            f"expected a new folder or one of a detector, got {folder} with a {CONFIG} or {CARD} of its own"
        )


def read_model_config(path: str | Path) -> DictConfig:
    """The config.json of a model folder as a config that can detect, evaluate and export.

    Raises:
        InputError: unreadable, of another format, it names a part that is not known here, or its parts do not fit.
    """
    content = _read_content(path)
    teacher, folder = content["teacher"], Path(path).parent
    shows_teacher = content["model"]["roi_heads"].get("region_teacher") is not None  # the image as it was
    mapper = LazyCall(OpenVocabMapper)(
        is_train=False,
        augmentations=[LazyCall(T.ResizeShortestEdge)(**content["resize"])],
        image_format="${model.input_format}",
        keep_original=shows_teacher,
    )
    dataset = LazyCall(get_detection_dataset_dicts)(names="", filter_empty=False)
    embedder = LazyCall(NameEmbedder)(
        teacher="${teacher.name}",
        width="${teacher.width}",
        templates="${teacher.templates}",
        file="${teacher.embeddings}",
        fingerprint=teacher["fingerprint"] or None,
        known=str(folder / NAMES) if (folder / NAMES).is_file() else None,
    )
    parts = {
        "model": content["model"],
        "teacher": {**{key: teacher[key] for key in ("name", "width", "templates")}, "embeddings": None},
        "name_embedder": embedder,
        "dataset": {},
        "dataloader": {"test": LazyCall(build_detection_test_loader)(dataset=dataset, mapper=mapper, num_workers=2)},
        # its own folder, as `find_weights` takes the last checkpoint of a run's before the initial one
        "train": {
            "_target_": part_name(TrainOptions),  # LazyCall would load hydra to name a dataclass
            **dict(output_dir=str(folder), init_checkpoint=str(folder / WEIGHTS), device="auto"),
        },
    }
    return OmegaConf.create(parts, flags={"allow_objects": True})


def _read_content(path: str | Path) -> dict[str, Any]:
    """The checked content of a config.json.

    Raises:
        InputError: as of read_model_config.
    """
    what = f"the {CONFIG} of a model folder"
    try:
        content = decoded(Path(path).read_bytes(), dict[str, Any], what, path)
    except OSError as error:
        raise InputError(f"expected {what}, {path} cannot be read: {error.strerror}") from error
    if content.get("format") == _FORMAT_0_1:
        raise InputError(f"expected a model folder of version 0.2, {path} is of 0.1: train and pack that detector anew")
    checked(content, ModelConfig, what, path)
    check_parts(content, str(path))
    _check_weights(Path(path).with_name(WEIGHTS), check_build(content["model"], str(path)))
    return content


def _check_weights(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse a model of other sizes than the weights beside it, before it is built and takes their memory.

    Raises:
        InputError: a weight of another shape, or one that is not there.
    """
    if not path.is_file():  # a config that is looked at alone
        return
    try:
        with safe_open(str(path), framework="pt") as file:
            stored = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise InputError(f"expected the weights of a model, {path} is damaged: {first_line(error)}") from error
    for key, shape in shapes.items():
        if stored.get(key) != shape:
            actual = stored.get(key, "none")
            raise InputError(f"expected {key} of shape {shape} in {path}, as {CONFIG} says, got {actual}")


def read_resize(augmentations: list[T.Augmentation]) -> dict[str, int]:
    """The resizing of test images, as plain numbers.

    Returns:
        {"short_edge_length", "max_size"}: pixels of the shorter side, and of the longer one at most.

    Raises:
        InputError: anything but one bilinear ResizeShortestEdge to one size.
    """
    only = augmentations[0] if len(augmentations) == 1 else None
    sizes = set(only.short_edge_length) if isinstance(only, T.ResizeShortestEdge) else ()
    if len(sizes) != 1 or only.interp != Image.BILINEAR:
        raise InputError(f"expected test photos resized by one bilinear ResizeShortestEdge, got {augmentations}")
    return {"short_edge_length": sizes.pop(), "max_size": only.max_size}

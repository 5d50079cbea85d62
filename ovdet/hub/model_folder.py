"""A trained detector as a folder to be passed on: config.json, model.safetensors and a model card, README.md.

A training run's config.yaml is a program; a folder from somewhere else must not be one. config.json is plain data: the
names of the detector's parts, see parts.py, and what they are built with. Weights are kept in half precision.
"""

from __future__ import annotations

import contextlib
import json
import os
from copy import deepcopy
from pathlib import Path
from typing import Any

from detectron2.config import LazyCall, instantiate
from detectron2.data import build_detection_test_loader, get_detection_dataset_dicts
from detectron2.data import transforms as T
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from safetensors.torch import save

from ovdet.data.mapper import OpenVocabMapper
from ovdet.engine.checkpoint import HEADER, read_checkpoint
from ovdet.engine.options import TrainOptions
from ovdet.engine.version_0_1 import upgrade_config
from ovdet.errors import InputError
from ovdet.files import atomic_write, temporary_path
from ovdet.hub.load import find_weights, load_detector, without_training
from ovdet.hub.parts import check_build, check_parts, to_data
from ovdet.text.embedder import NameEmbedder

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
FORMAT, _FORMAT_0_1 = "ovdet model 2", "ovdet model 1"
_ENTRIES = {  # what must be there, and of which kind
    "model": {"_target_": str, "roi_heads": dict},
    "teacher": {"name": str, "width": int, "templates": (str, list), "fingerprint": str},
    "resize": {"short_edge_length": int, "max_size": int},
}


def write_model_folder(config: DictConfig, weights: str, folder: str | Path, *, card: str) -> dict[str, Any]:
    """Write a trained detector as a model folder.

    Args:
        config: of the detector, see `load_config`.
        weights: as for `load_detector`.
        folder: created; files of these names in it are replaced.
        card: the text of README.md, Markdown.

    Returns:
        The content of config.json.

    Raises:
        InputError: config or weights are not there or do not fit, the detector has a part that a folder cannot name,
            or the folder cannot be written to.
    """
    folder = Path(folder)
    _check_is_free(folder)
    config = _with_training_classes(config, weights)
    detector, embed_names, header = load_detector(config, weights)
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
    # weights first and config last: a folder without a config is no detector, and a full disk leaves an older one
    state = detector.state_dict()
    halves = {key: (value.half() if value.is_floating_point() else value).contiguous() for key, value in state.items()}
    with temporary_path(folder / WEIGHTS) as part:
        with open(part, "xb") as stream:
            stream.write(save(halves, {HEADER: json.dumps(header)}))
            stream.flush()
            os.fsync(stream.fileno())
        with contextlib.suppress(OSError):
            (folder / CONFIG).unlink(missing_ok=True)  # it would not fit the new weights
    atomic_write(folder / CARD, card.encode())
    atomic_write(folder / CONFIG, (json.dumps(content, indent=1) + "\n").encode())
    return content


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


def _check_is_free(folder: Path) -> None:
    """Refuse a folder of anything else than an older detector, which its config.json or its weights tell."""
    config = folder / CONFIG
    if config.is_file():
        text = config.read_text(encoding="utf-8", errors="replace")
        is_ours = any(f'"{form}"' in text for form in (FORMAT, _FORMAT_0_1))
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
        fingerprint=teacher["fingerprint"],
    )
    parts = {
        "model": content["model"],
        "teacher": {**{key: teacher[key] for key in ("name", "width", "templates")}, "embeddings": None},
        "name_embedder": embedder,
        "dataset": {},
        "dataloader": {"test": LazyCall(build_detection_test_loader)(dataset=dataset, mapper=mapper, num_workers=2)},
        # its own folder, as `find_weights` takes the last checkpoint of a run's before the initial one
        "train": LazyCall(TrainOptions)(output_dir=str(folder), init_checkpoint=str(folder / WEIGHTS), device="auto"),
    }
    return OmegaConf.create(parts, flags={"allow_objects": True})


def _read_content(path: str | Path) -> dict[str, Any]:
    """The checked content of a config.json.

    Raises:
        InputError: as of read_model_config.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if isinstance(content, dict) and content.get("format") == _FORMAT_0_1:
            content = {**content, "format": FORMAT, "model": upgrade_config(content.get("model"))}
        _check_content(content, str(path))
    except InputError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"expected the {CONFIG} of a model folder, {path} cannot be read: {error}") from error
    return content


def _check_content(content: Any, path: str) -> None:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        actual = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise InputError(f"expected a {CONFIG} of format {FORMAT!r}, got {actual!r} in {path}")
    for part, kinds in _ENTRIES.items():
        entries = content.get(part)
        if not isinstance(entries, dict):
            raise InputError(f"expected {part!r} in {path}, got none")
        for key, kind in kinds.items():
            value = entries.get(key)
            if not isinstance(value, kind) or (kind is int and value < 1):
                raise InputError(f"expected {part}.{key} in {path}, got {value!r}")
    odd = sorted(set(content["resize"]) - set(_ENTRIES["resize"]))
    if odd:
        raise InputError(f"expected {', '.join(_ENTRIES['resize'])} for resize in {path}, got {odd[0]!r}")
    check_parts(content, path)
    check_build(content["model"], path)


def read_resize(augmentations: list[T.Augmentation]) -> dict[str, int]:
    """How test images are resized, as plain numbers.

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

"""A trained detector as a folder to be passed on: config.json, model.safetensors and a model card, README.md.

A training run's config.yaml is a program; a folder from somewhere else must not be one. config.json is plain data: it
names the detector's parts out of a list of known ones, and what they are built with. Weights are kept in half
precision.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from detectron2.config import LazyCall, instantiate
from detectron2.data import build_detection_test_loader, get_detection_dataset_dicts
from detectron2.data import transforms as T
from detectron2.layers import ShapeSpec
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone import FPN, BasicStem, ResNet
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.proposal_generator import RPN, StandardRPNHead
from detectron2.modeling.roi_heads import FastRCNNConvFCHead, MaskRCNNConvUpsampleHead
from detectron2.utils.registry import _convert_target_to_string as name_of
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from safetensors.torch import save

from ovdet.data.mapper import OpenVocabMapper
from ovdet.engine.checkpoint import HEADER
from ovdet.engine.options import TrainOptions
from ovdet.engine.version_0_1 import upgrade_config
from ovdet.errors import InputError, first_line
from ovdet.files import atomic_write
from ovdet.hub.load import load_detector, without_training
from ovdet.modeling.backbones.fpn import FPNWithBackboneFeatures
from ovdet.modeling.backbones.timm_backbone import TimmBackbone
from ovdet.modeling.background_names import BackgroundNames
from ovdet.modeling.box_predictor import OpenVocabBoxPredictor
from ovdet.modeling.detector import OpenVocabRCNN
from ovdet.modeling.embedding_heads import FrozenBackboneBranch, ImageBranch
from ovdet.modeling.iou_head import IoUHead
from ovdet.modeling.region_pooler import RegionPooler
from ovdet.modeling.roi_heads import OpenVocabROIHeads
from ovdet.modeling.score_fusion import GeometricScores, ImageScores, TextScores
from ovdet.text.embedder import NameEmbedder

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
FORMAT, _FORMAT_0_1 = "ovdet model 2", "ovdet model 1"
_FROM_DETECTRON2 = (
    *(BasicStem, Box2BoxTransform, DefaultAnchorGenerator, FPN, FastRCNNConvFCHead, LastLevelMaxPool, Matcher),
    *(MaskRCNNConvUpsampleHead, ROIPooler, RPN, ResNet, ResNet.make_default_stages, ShapeSpec, StandardRPNHead),
)
_OWN = (
    *(FrozenBackboneBranch, GeometricScores, ImageBranch, ImageScores, IoUHead),
    *(OpenVocabBoxPredictor, OpenVocabRCNN, OpenVocabROIHeads, BackgroundNames, RegionPooler, TextScores),
    *(FPNWithBackboneFeatures, TimmBackbone),
)
KNOWN_PARTS = {name_of(part) for part in (*_FROM_DETECTRON2, *_OWN)}
_ENTRIES = {  # what must be there, and of which kind
    "model": {"_target_": str, "roi_heads": dict},
    "teacher": {"name": str, "width": int, "templates": (str, list), "fingerprint": str},
    "resize": {"short_edge_length": int, "max_size": int},
}


def write_model_folder(config: DictConfig, weights: str, folder: str | Path, *, card: str) -> dict[str, Any]:
    """Pack a trained detector.

    Args:
        config: of the detector, see `load_config`.
        weights: as for `load_detector`.
        folder: created; files of these names in it are replaced.
        card: the text of README.md, Markdown.

    Returns:
        What config.json says.

    Raises:
        InputError: config or weights are not there or do not fit, the detector has a part that a folder cannot name,
            or the folder cannot be written to.
    """
    _check_is_free(Path(folder))
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
        "model": _as_data(without_training(config).model),
    }
    _check_parts(content["model"], "the config")
    halves = {
        key: (value.half() if value.is_floating_point() else value).contiguous()
        for key, value in detector.state_dict().items()
    }
    folder = Path(folder)
    packed = save(halves, {HEADER: json.dumps(header)})
    atomic_write(folder / f"{WEIGHTS}.new", packed)  # a full disk leaves an older detector as it was
    with contextlib.suppress(OSError):
        (folder / CONFIG).unlink(missing_ok=True)  # which would not fit the new weights
    try:
        os.replace(folder / f"{WEIGHTS}.new", folder / WEIGHTS)
    except OSError as error:
        (folder / f"{WEIGHTS}.new").unlink()
        raise InputError(f"expected a place to write to, got {folder / WEIGHTS}: {error.strerror}") from error
    atomic_write(folder / CARD, card.encode())
    atomic_write(folder / CONFIG, (json.dumps(content, indent=1) + "\n").encode())
    return content


def _check_is_free(folder: Path) -> None:
    """Nothing is written over but an older detector, whole or not: its config.json or its weights tell."""
    config = folder / CONFIG
    if config.is_file():
        is_ours = f'"{FORMAT}"' in config.read_text(encoding="utf-8", errors="replace")
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
    teacher, model, folder = content["teacher"], content["model"], Path(path).parent
    mapper = LazyCall(OpenVocabMapper)(
        is_train=False,
        augmentations=[LazyCall(T.ResizeShortestEdge)(**content["resize"])],
        image_format="${model.input_format}",
        keep_original=False,
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
        "model": model,
        "teacher": {"name": teacher["name"], "width": teacher["width"], "templates": teacher["templates"]},
        "name_embedder": embedder,
        "dataset": {},
        "dataloader": {"test": LazyCall(build_detection_test_loader)(dataset=dataset, mapper=mapper, num_workers=2)},
        # its own folder, as `find_weights` takes the last checkpoint of a run's before the initial one
        "train": LazyCall(TrainOptions)(output_dir=str(folder), init_checkpoint=str(folder / WEIGHTS)),
    }
    parts["teacher"]["embeddings"] = None
    return OmegaConf.create(parts, flags={"allow_objects": True})


def _read_content(path: str | Path) -> dict[str, Any]:
    """What a config.json says, checked.

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
        came = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise InputError(f"expected a {CONFIG} of format {FORMAT!r}, got {came!r} in {path}")
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
    _check_parts(content, path)
    _check_build(content["model"], path)


def _check_build(model: dict[str, Any], path: str) -> None:
    """Refuse what no detector can be built of; no weight is drawn or read.

    Raises:
        InputError: the model is another part than a detector, or its parts do not take what they are given.
    """
    if model["_target_"] != name_of(OpenVocabRCNN):
        raise InputError(f"expected a model that is an {OpenVocabRCNN.__name__}, got {model['_target_']!r} in {path}")
    try:
        with torch.device("meta"):
            instantiate(OmegaConf.create(model))
    except Exception as error:  # whatever comes of values that no part expects
        raise InputError(f"expected a detector's parts in {path}, they do not fit: {first_line(error)}") from error


def read_resize(augmentations: list[T.Augmentation]) -> dict[str, int]:
    """The test-time rule as plain numbers.

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


def _as_data(node: Any, key: str = "model") -> Any:
    """A config node as json has it: parts by their names; loaders of initial weights left out.

    Raises:
        InputError: a value that json does not have.
    """
    if OmegaConf.is_dict(node):
        loads = {key for key in node if key == "weights" and OmegaConf.is_dict(node[key])}
        data = {key: None if key in loads else _as_data(node[key], key) for key in node}
        kind = OmegaConf.get_type(node)
        if dataclasses.is_dataclass(kind):  # ShapeSpec is one
            data["_target_"] = name_of(kind)
        return data
    if OmegaConf.is_list(node):
        return [_as_data(value, key) for value in node]
    if isinstance(node, (str, int, float, type(None))):
        return node
    if key == "_target_":
        return name_of(node)
    raise InputError(f"expected values that a model folder can hold, got {node!r} for {key}")


def _check_parts(content: Any, where: str) -> None:
    """Refuse what would be looked up anywhere else than among the known parts.

    Raises:
        InputError: a part that is not known, or a text that is to be resolved.
    """
    for key, value in _leaves(content):
        if key == "_target_" and value not in KNOWN_PARTS:
            raise InputError(f"expected parts of a detector that a model folder may name, got {value!r} in {where}")
        if isinstance(value, str) and "${" in value:
            raise InputError(f"expected plain values, got {value!r} for {key} in {where}")


def _leaves(content: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """All plain values with the nearest key above them."""
    if isinstance(content, dict):
        for name, value in content.items():
            yield from _leaves(value, name)
    elif isinstance(content, list):
        for value in content:
            yield from _leaves(value, key)
    else:
        yield key, content

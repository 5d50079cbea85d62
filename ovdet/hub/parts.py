"""A detector's config as plain data, with only those classes and functions that a model folder may name."""

from __future__ import annotations

import dataclasses
import importlib
import re
from collections.abc import Iterator
from typing import Any

import torch
from detectron2.config import instantiate
from detectron2.config.instantiate import locate
from detectron2.utils.registry import _convert_target_to_string
from omegaconf import DictConfig, OmegaConf

from ovdet.errors import InputError, first_line
from ovdet.initialization import WithoutRandomWeights
from ovdet.modeling.detector import ClosedSetRCNN, OpenVocabRCNN
from ovdet.modeling.image_labels import ImageLabelRCNN
from ovdet.packable import is_packable
from ovdet.teachers.registry import load_teacher

# detectron2's parts cannot mark themselves; by the names that LazyConfig.save writes
DETECTRON2 = {
    "detectron2.layers.ShapeSpec",
    "detectron2.modeling.FPN",
    "detectron2.modeling.FastRCNNOutputLayers",
    "detectron2.modeling.ResNet",
    "detectron2.modeling.ResNet.make_default_stages",
    "detectron2.modeling.StandardROIHeads",
    "detectron2.modeling.anchor_generator.DefaultAnchorGenerator",
    "detectron2.modeling.backbone.BasicStem",
    "detectron2.modeling.backbone.fpn.LastLevelMaxPool",
    "detectron2.modeling.backbone.fpn.LastLevelP6P7",
    "detectron2.modeling.box_regression.Box2BoxTransform",
    "detectron2.modeling.matcher.Matcher",
    "detectron2.modeling.poolers.ROIPooler",
    "detectron2.modeling.proposal_generator.RPN",
    "detectron2.modeling.proposal_generator.StandardRPNHead",
    "detectron2.modeling.roi_heads.FastRCNNConvFCHead",
    "detectron2.modeling.roi_heads.MaskRCNNConvUpsampleHead",
}
# what trains and tests beside a detector, by such names too
TRAINING = {
    "detectron2.data.build_detection_test_loader",
    "detectron2.data.build_detection_train_loader",
    "detectron2.data.get_detection_dataset_dicts",
    "detectron2.solver.get_default_optimizer_params",
    "ovdet.data.captions.CaptionSentences",
    "ovdet.data.captions.CaptionWords",
    "ovdet.data.catalog.register_builtin",
    "ovdet.data.dataset.register_coco_subsets",
    "ovdet.data.dataset.training_classes",
    "ovdet.data.image_labels.LabeledPhotos",
    "ovdet.data.loader.build_resumable_loader",
    "ovdet.data.mapper.OpenVocabMapper",
    "ovdet.data.mixture.DataSet",
    "ovdet.data.mixture.MixtureMapper",
    "ovdet.data.mixture.mixture_sampler",
    "ovdet.data.mixture.register_mixture",
    "ovdet.data.mixture.set_labels",
    "ovdet.data.proposal_files.PrecomputedProposals",
    "ovdet.data.samplers.frequency_weights",
    "ovdet.data.samplers.repeat_factor_sampler",
    "ovdet.data.synthetic.build_synthetic",
    "ovdet.engine.frozen.FrozenDetector",
    "ovdet.engine.learning_rate.part_lr_multiplier",
    "ovdet.engine.options.TrainOptions",
    "ovdet.evaluation.evaluator.build_evaluator",
    "ovdet.imagenet_lite.load_efficientnet_lite_weights",
    "ovdet.load_teacher",
    "ovdet.modeling.nanodet_weights.load_nanodet_backbone",
    "ovdet.modeling.nanodet_weights.load_nanodet_expert",
    "ovdet.modeling.partial_labels.PartialLabels",
    "ovdet.modeling.region_sources.OnlineRegions",
    "ovdet.modeling.region_sources.StoredRegions",
    "ovdet.regions.store.RegionStore",
    "ovdet.teachers.conse.load_conse_background_names",
    "ovdet.teachers.conse.load_conse_head",
    "ovdet.text.embedder.NameEmbedder",
}
# packages whose classes and functions do no more than change arrays, weights or a learning rate
HARMLESS = ("detectron2.data.transforms", "detectron2.solver", "fvcore.common.param_scheduler", "torch.optim")
PLACES = ("ovdet.device", "ovdet.modeling", "ovdet.objectives", "ovdet.teachers")  # where marked parts are looked for
# what a detector's config may ask for; weights bound the rest, see `check_weights`
LIMITS = {
    "output_size": 64,
    "sampling_ratio": 16,
    "box_passes": 16,
    "num_conv": 100,
    "num_layers": 100,
    "conv_dims": 10_000,
}
LARGEST, LONGEST = 1_000_000, 10_000
DEVICE = "${train.device}"  # the one text that is resolved where a folder is opened
_REFERENCE = re.compile(r"\$\{[\w.\[\]]+\}")  # to a value of the same config
DETECTORS = (OpenVocabRCNN, ClosedSetRCNN, ImageLabelRCNN)


def part_name(part: Any) -> str:
    """The dotted name of a class or function."""
    if part.__module__.startswith("ovdet."):
        return f"{part.__module__}.{part.__qualname__}"
    return _convert_target_to_string(part)


def may_be_named(name: Any) -> bool:
    """Whether a model folder may name this part; no module is imported for it outside of PLACES."""
    return isinstance(name, str) and (name in DETECTRON2 or is_packable(_part_at(name)))


def _part_at(name: Any) -> Any:
    """ovdet's own class or function of a name below PLACES; None where there is none. No other module is imported."""
    module, _, attribute = str(name).rpartition(".")
    is_name = f"{module}.{attribute}".replace(".", "").isidentifier()
    if not is_name or not any(f"{module}.".startswith(f"{place}.") for place in PLACES):
        return None
    try:
        return getattr(importlib.import_module(module), attribute, None)
    except ImportError:
        return None


def to_data(node: Any, key: str = "model") -> Any:
    """A config node as json has it: parts by their names; loaders of initial weights left out.

    Raises:
        InputError: a value that json does not have.
    """
    if OmegaConf.is_dict(node):
        data = {name: _entry_to_data(node, name) for name in node}
        kind = OmegaConf.get_type(node)
        if dataclasses.is_dataclass(kind):  # ShapeSpec is one
            data["_target_"] = part_name(kind)
        return data
    if OmegaConf.is_list(node):
        return [to_data(value, key) for value in node]
    if key == "_target_":
        return part_name(locate(node) if isinstance(node, str) else node)
    if isinstance(node, (str, int, float, type(None))):
        return node
    raise InputError(f"expected values that a model folder can hold, got {node!r} for {key}")


def _entry_to_data(node: DictConfig, key: str) -> Any:
    if OmegaConf.is_interpolation(node, key) and node._get_node(key)._value() == DEVICE:
        return DEVICE
    if key == "weights" and OmegaConf.is_dict(node[key]):
        return None
    return to_data(node[key], key)


def check_run_parts(content: Any, where: str) -> None:
    """Refuse a training run of somebody else that names parts which are not ovdet's own: building them runs code.

    Args:
        content: the values of its config.yaml.
        where: that file, for the message.

    Raises:
        InputError: there is such a part.
    """
    for value in _targets(content):
        package = value.rpartition(".")[0] if isinstance(value, str) else ""
        is_known = isinstance(value, str) and (value in TRAINING or package in HARMLESS)
        if not (is_known or may_be_named(value) or _is_own_module(value)):
            raise InputError(
                f"expected parts that ovdet knows in {where}, got {str(value)[:100]!r}: a run with code of your own "
                "opens by --config-file and --weights"
            )
    for _, value in _leaves(content):
        # resolvers make nodes of text: ${oc.create:...}
        if isinstance(value, str) and "${" in _REFERENCE.sub("", value):
            raise InputError(f"expected plain references in {where}, got {value[:100]!r}")


def _is_own_module(name: Any) -> bool:
    """Whether a name is that of a network part of ovdet, which may train only."""
    part = _part_at(name)
    is_network = isinstance(part, type) and issubclass(part, torch.nn.Module)
    return is_network and part.__module__ == str(name).rpartition(".")[0]


def _targets(content: Any) -> Iterator[Any]:
    """Whatever stands at a `_target_`, of any type."""
    if isinstance(content, dict):
        for key, value in content.items():
            if key == "_target_":
                yield value
            yield from _targets(value)
    elif isinstance(content, (list, tuple)):
        for value in content:
            yield from _targets(value)


def check_parts(content: Any, where: str) -> None:
    """Refuse parts that a model folder may not name, and texts with interpolations.

    Raises:
        InputError: there is one.
    """
    for key, value in _leaves(content):
        if key == "_target_" and not may_be_named(value):
            raise InputError(f"expected parts of a detector that a model folder may name, got {value!r} in {where}")
        if isinstance(value, str) and "${" in value and value != DEVICE:
            raise InputError(f"expected plain values, got {value!r} for {key} in {where}")
        most = LIMITS.get(key, LARGEST)
        if isinstance(value, (int, float)) and not abs(value) <= most:
            raise InputError(f"expected {key} of at most {most:,} in {where}, got {value!r}")
    if LONGEST < _longest_list(content):
        raise InputError(f"expected lists of at most {LONGEST:,} entries in {where}, got {_longest_list(content):,}")


def _longest_list(content: Any) -> int:
    if isinstance(content, list):
        return max([len(content), *map(_longest_list, content)])
    return max([0, *map(_longest_list, content.values())]) if isinstance(content, dict) else 0


def _leaves(content: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """All plain values with the nearest key above them."""
    if isinstance(content, dict):
        for name, value in content.items():
            yield from _leaves(value, name)
    elif isinstance(content, (list, tuple)):
        for value in content:
            yield from _leaves(value, key)
    else:
        yield key, content


def check_build(model: dict[str, Any], where: str) -> dict[str, tuple[int, ...]]:
    """Refuse a model that cannot be built, by building it on the meta device without teachers: that takes no memory.

    Returns:
        The shapes of its weights, by their names.

    Raises:
        InputError: the model is another part than a detector, or its parts do not take what they are given.
    """
    names = [part_name(detector) for detector in DETECTORS]
    if model["_target_"] not in names:
        raise InputError(f"expected a model out of {', '.join(names)}, got {model['_target_']!r} in {where}")
    try:
        with torch.device("meta"), WithoutRandomWeights():
            built = instantiate(OmegaConf.create({"model": _without_teachers(model), "train": {"device": "cpu"}}).model)
    except Exception as error:  # whatever comes of values that no part expects
        raise InputError(f"expected a detector's parts in {where}, they do not fit: {first_line(error)}") from error
    return {key: tuple(value.shape) for key, value in built.state_dict().items()}


def _without_teachers(content: Any) -> Any:
    if isinstance(content, list):
        return [_without_teachers(value) for value in content]
    if not isinstance(content, dict):
        return content
    if content.get("_target_") == part_name(load_teacher):
        return None
    return {key: _without_teachers(value) for key, value in content.items()}

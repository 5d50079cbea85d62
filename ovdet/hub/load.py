"""Building a trained detector from its config and checkpoint, without the parts that only train it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from copy import deepcopy
from typing import Any

from detectron2.config import instantiate
from detectron2.config.instantiate import locate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from ovdet.engine.checkpoint import SafeCheckpointer, classes_of_both, known_classes, text_space
from ovdet.engine.options import build_options
from ovdet.engine.resume import last_checkpoint
from ovdet.errors import InputError
from ovdet.initialization import WithoutRandomWeights
from ovdet.teachers.registry import load_teacher
from ovdet.text.embedder import NameEmbedder


def is_own(config: DictConfig) -> bool:
    """Whether a config is of a detector of this project, not of one of transformers'."""
    return "roi_heads" in config.model


def check_own(config: DictConfig) -> None:
    """Refuse a detector of transformers, which is not packed, exported or trained here.

    Raises:
        InputError: it is one.
    """
    if not is_own(config):
        raise InputError(f"expected a detector of ovdet, got hf:{config.model.source}, which is one of transformers'")


def find_weights(config: DictConfig, weights: str = "") -> str:
    """The checkpoint of a config's detector.

    Args:
        config: as for do_train.
        weights: a checkpoint; "" takes the output folder's last one, else `config.train.init_checkpoint` if training
            takes that as a whole.

    Raises:
        InputError: there is none.
    """
    options = build_options(config)
    whole = "" if options.init_parts else options.init_checkpoint  # parts of one are no detector
    weights = weights or last_checkpoint(options.output_dir) or whole
    if not weights:
        other = "train it first" if options.init_parts else "or train.init_checkpoint=FILE"
        raise InputError(f"expected a checkpoint of a training run in {options.output_dir}, got none: {other}")
    return weights


def without_training(config: DictConfig) -> DictConfig:
    """A copy whose model has only parts that detect: a teacher of its training is not even loaded."""
    config = deepcopy(config)
    heads = config.model.roi_heads
    predictors = [*heads.get("earlier_predictors", ()), heads.get("box_predictor", {})]
    training = (
        (config.model, "region_source"),
        (config.model, "labels"),
        (heads, "frozen"),
        *((each, key) for each in predictors for key in ("class_weights", "partial_labels")),
        (config.model.proposal_generator or {}, "labels"),
    )
    for part, key in training:
        if key in part:
            part[key] = None
    if "objectives" in heads:
        heads.objectives = [each for each in heads.objectives if _stays(each)]
    return config


def _stays(objective: DictConfig) -> bool:
    """Whether a detector keeps an objective for what it has learned."""
    target = objective._target_
    return getattr(locate(target) if isinstance(target, str) else target, "stays", False)


def has_teacher(node: Any) -> bool:
    """Whether a part of a config is a teacher."""
    if OmegaConf.is_dict(node):
        target = node.get("_target_")
        is_one = (locate(target) if isinstance(target, str) else target) is load_teacher
        return is_one or any(has_teacher(value) for value in node.values())
    return OmegaConf.is_list(node) and any(map(has_teacher, node))


def load_detector(config: DictConfig, weights: str = "") -> tuple[nn.Module, NameEmbedder, dict[str, Any]]:
    """A trained detector in evaluation mode, and the embedder of class names that goes with it.

    Args:
        config: as for do_train.
        weights: see find_weights.

    Returns:
        The model without what only trains it, what embeds names for it, and the checkpoint's header, with the classes
        of experts among those that it was trained on and knows.

    Raises:
        InputError: there is no checkpoint, or it does not fit.
    """
    if not is_own(config):  # weights come with it
        model = instantiate(config.model).to(build_options(config).torch_device())
        return model.eval(), instantiate(config.name_embedder), {}
    weights = find_weights(config, weights)
    parts = without_training(config).model
    with nullcontext() if has_teacher(parts) else WithoutRandomWeights():  # a teacher's weights are not the model's
        model = instantiate(parts).to(build_options(config).torch_device())
    embed_names = instantiate(config.name_embedder)
    header = SafeCheckpointer(model, header=text_space(config, embed_names)).load_weights(weights)
    expected, actual = getattr(model, "training_classes", None), header.get("training_classes")
    if expected is not None and actual is not None and list(expected) != list(actual):
        raise InputError(
            f"expected a classifier of the training set's {len(expected)} classes in their order, "
            f"got one of {len(actual)} others in {weights}"
        )
    return model.eval(), embed_names, with_expert_names(header, model)


def with_expert_names(header: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
    """A checkpoint's header with the names of its detector's experts.

    All are names that it knows. Those of the closed-set expert join the ones that it was trained on; those of the
    linear expert are `learned_classes`.
    """
    heads = getattr(model, "roi_heads", None)
    closed, linear = getattr(heads, "expert", None), getattr(heads, "linear_expert", None)
    header = {key: value for key, value in header.items() if key != "learned_classes"}
    trained = header.get("training_classes")
    for expert in (closed, linear):
        if expert is not None:
            header["known_classes"] = classes_of_both(expert.names, known_classes(header))
    if closed is not None and trained:
        header["training_classes"] = classes_of_both(closed.names, trained)
    if linear is not None:
        header["learned_classes"] = list(linear.names)
    return header

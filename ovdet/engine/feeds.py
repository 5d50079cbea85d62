"""The inputs of a training run, in a few lines of its log: objectives and their weights, data, first weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from detectron2.data import MetadataCatalog
from omegaconf import DictConfig, OmegaConf
from tabulate import tabulate
from torch import nn

from ovdet.engine.options import TrainOptions


def what_feeds(config: DictConfig, model: nn.Module, options: TrainOptions, dataset_name: str) -> str:
    """A table of two columns.

    Args:
        config: as for do_train.
        model: as it is trained.
        options: the config's.
        dataset_name: of the training set, registered.
    """
    return tabulate(_rows(config, model, options, dataset_name), tablefmt="plain")


def _rows(config: DictConfig, model: nn.Module, options: TrainOptions, dataset_name: str) -> Iterator[tuple[str, str]]:
    mapper, metadata = config.dataloader.train.mapper, MetadataCatalog.get(dataset_name)
    # objectives
    weights = getattr(model.roi_heads.box_predictor, "loss_weight", {})
    yield "losses of boxes", ", ".join(f"{key} x {weights.get(key, 1.0):g}" for key in ("loss_cls", "loss_box_reg"))
    objectives = getattr(model.roi_heads, "objectives", ())
    for each in objectives:
        yield "objective", f"{type(each).__name__} x {each.weight:g}, on {', '.join(sorted(each.needs))}"
    if not objectives:
        yield "objective", "none beside classes and boxes"
    # data
    mixture = metadata.get("mixture")
    if mixture is None:
        yield "data", f"{dataset_name}: {metadata.get('json_file', 'registered by code')}"
    for each in () if mixture is None else mixture.sets:
        yield "data", f"{each.name}, share {each.share:g}: {each.source}"
    for what, key in (("captions", "captions"), ("captions of photos", "sentences")):
        if mapper.get(key):
            yield what, _named(mapper[key], "captions")
    if getattr(model, "region_source", None) is not None:
        store = mapper.get("region_store")
        yield (
            "regions of the teacher",
            type(model.region_source).__name__ + (f": {_named(store, 'path')}" if store else ""),
        )
    given = mapper.get("proposals")
    yield "proposals", _named(given, "path") if given else type(model.proposal_generator).__name__
    # weights
    parts = f" ({options.init_parts})" if options.init_parts else ""
    yield "begins with", f"{options.init_checkpoint}{parts}" if options.init_checkpoint else "weights of the parts"
    yield "stays as it is", options.freeze or "nothing"


def _named(node: Any, key: str) -> str:
    """The file or name that a part of the config reads; of a part that is no node, its type."""
    return str(node[key]) if OmegaConf.is_dict(node) and key in node else type(node).__name__

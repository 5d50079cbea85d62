"""Evaluation: put the dataset's names into the model, run it over the photos, score, put the old names back."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from detectron2.config import instantiate
from detectron2.data import MetadataCatalog
from detectron2.evaluation import inference_on_dataset
from detectron2.utils import comm
from omegaconf import DictConfig
from torch import Tensor, nn

from ovdet.files import write_whole

EmbedNames = Callable[[Sequence[str]], Tensor]

logger = logging.getLogger(__name__)


def set_names(model: nn.Module, names: Sequence[str], embed_names: EmbedNames, base: Sequence[str] | None) -> None:
    """Give a model its vocabulary.

    Args:
        model: with `set_vocabulary(names, embeddings, is_base)`.
        names: K class names.
        embed_names: K names -> (K, D).
        base: which names were trained on; None where base and novel are not told apart.
    """
    is_base = None if base is None else [name in set(base) for name in names]
    model.set_vocabulary(names, embed_names(names), is_base)


@contextmanager
def vocabulary_of(model: nn.Module, dataset_name: str, embed_names: EmbedNames) -> Iterator[None]:
    """The dataset's classes as the model's vocabulary, for the time of a `with` block."""
    metadata = MetadataCatalog.get(dataset_name)
    before = model.class_names
    set_names(model, metadata.thing_classes, embed_names, metadata.base_classes)
    try:
        yield
    finally:
        if before:
            set_names(model, before, embed_names, metadata.base_classes)


def do_test(config: DictConfig, model: nn.Module, embed_names: EmbedNames) -> Mapping[str, Any]:
    """Evaluate on `config.dataloader.test` with `config.dataloader.evaluator`.

    Returns:
        The evaluator's results on the main process, {} elsewhere. They are written to results.json in the
        evaluator's folder too.
    """
    dataset_name = instantiate(config.dataloader.test.dataset.names)
    loader = instantiate(config.dataloader.test)
    evaluator = instantiate(config.dataloader.evaluator)
    with vocabulary_of(model, dataset_name, embed_names):
        results = inference_on_dataset(model, loader, evaluator)
    if comm.is_main_process():
        folder = Path(config.train.output_dir)
        write_whole(folder / "results.json", (json.dumps(_without_nan(results), indent=1) + "\n").encode())
        logger.info("results are in %s", folder / "results.json")
    return results


def _without_nan(value: Any) -> Any:
    """Figures without ground truth become null: NaN is not json."""
    if isinstance(value, Mapping):
        return {key: _without_nan(entry) for key, entry in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value

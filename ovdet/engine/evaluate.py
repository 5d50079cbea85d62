"""Evaluation: put the dataset's names into the model, run it over the photos, score, put the old names back."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, inference_context
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ovdet.files import atomic_write
from ovdet.progress import show_progress
from ovdet.text.prompts import clean_name

EmbedNames = Callable[[Sequence[str]], Tensor]

logger = logging.getLogger(__name__)


def prepare_evaluation(config: DictConfig, folder: str | Path) -> None:
    """Make the folder of an evaluation and write the resolved config there; logs go there and to the console.

    A training run's own config.yaml and log.txt stay as they are.

    Raises:
        InputError: the folder cannot be written to.
    """
    folder = Path(folder)
    if comm.is_main_process():
        with tempfile.TemporaryDirectory() as scratch:
            LazyConfig.save(config, f"{scratch}/config.yaml")
            atomic_write(folder / "config.yaml", Path(scratch, "config.yaml").read_bytes())
    comm.synchronize()
    setup_logger.cache_clear()  # it remembers folders, and would not write to one again
    for name in ("detectron2", "fvcore", "ovdet"):
        of_name = logging.getLogger(name)  # whose handlers of an evaluation before go: its log is complete
        of_name.handlers = [each for each in of_name.handlers if type(each) is not logging.StreamHandler]
        setup_logger(str(folder), distributed_rank=comm.get_rank(), name=name)


def set_names(model: nn.Module, names: Sequence[str], embed_names: EmbedNames, base: Sequence[str] | None) -> None:
    """Give a model its vocabulary.

    Args:
        model: with `set_vocabulary(names, embeddings, is_base)`.
        names: K class names.
        embed_names: K names -> (K, D).
        base: which names were trained on, spelt so that they read alike; none where base and novel are not told apart.
    """
    known = {clean_name(name) for name in base or ()}
    model.set_vocabulary(names, embed_names(names), [clean_name(name) in known for name in names] if known else None)


@contextmanager
def vocabulary_of(
    model: nn.Module, dataset_name: str, embed_names: EmbedNames, training_classes: Sequence[str] = ()
) -> Iterator[None]:
    """The dataset's classes as the model's vocabulary, for the time of a `with` block.

    Fused scores weigh those names as base that the dataset's split calls so; without a split, the `training_classes`.
    """
    metadata = MetadataCatalog.get(dataset_name)
    before = model.class_names
    set_names(model, metadata.thing_classes, embed_names, metadata.base_classes or training_classes)
    try:
        yield
    finally:
        if before:  # what it is trained on
            set_names(model, before, embed_names, before)


def run_detector(model: nn.Module, loader: DataLoader, evaluator: DatasetEvaluator) -> Mapping[str, Any]:
    """Run a model over photos and hand what it finds to an evaluator, behind a bar with rate and time left.

    Args:
        model: as detectron2's; it is in evaluation mode meanwhile.
        loader: of `build_detection_test_loader`; on several GPUs each process runs its share.
        evaluator: as detectron2's.

    Returns:
        The evaluator's results on the main process, {} elsewhere.
    """

    def detect() -> Iterator[int]:
        for inputs in loader:
            evaluator.process(inputs, model(inputs))
            yield len(inputs)

    evaluator.reset()
    total, start = len(loader.sampler), time.perf_counter()
    with inference_context(model), torch.no_grad():
        show_progress("detecting", detect(), total, shown=comm.is_main_process())
    seconds = time.perf_counter() - start
    logger.info("%d photos in %.1f s: %.2f photos/s", total, seconds, total / seconds)
    return evaluator.evaluate() or {}


def do_test(
    config: DictConfig, model: nn.Module, embed_names: EmbedNames, training_classes: Sequence[str] = ()
) -> Mapping[str, Any]:
    """Evaluate on `config.dataloader.test` with `config.dataloader.evaluator`, which writes metrics and detections.

    Args:
        config: as for do_train.
        model: with `set_vocabulary`.
        embed_names: K names -> (K, D).
        training_classes: that the model was trained on; see vocabulary_of.

    Returns:
        The evaluator's results on the main process, {} elsewhere.
    """
    dataset_name = instantiate(config.dataloader.test.dataset.names)
    loader = instantiate(config.dataloader.test)
    evaluator = instantiate(config.dataloader.evaluator)
    with vocabulary_of(model, dataset_name, embed_names, training_classes):
        return run_detector(model, loader, evaluator)

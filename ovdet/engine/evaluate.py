"""Evaluation of a detector on a registered data set: its classes, the photos, the figures."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from detectron2.config import instantiate
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, inference_context
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig
from torch import nn
from torch.utils.data import DataLoader

from ovdet.class_embeddings import ClassEmbeddings
from ovdet.data.read_ahead import read_ahead
from ovdet.errors import InputError
from ovdet.files import make_folder
from ovdet.progress import show_progress
from ovdet.text.class_names import nearest_name, normalize_class_name
from ovdet.text.classes import build_classes
from ovdet.text.embedder import NameEmbedder
from ovdet.text.vocabulary import Vocabulary

logger = logging.getLogger(__name__)


def prepare_evaluation(folder: str | Path) -> None:
    """Make the folder of an evaluation; logs go there and to the console.

    A training run's own log.txt stays as it is, and so does what an evaluation before found, until `do_test` is done.

    Raises:
        InputError: the folder cannot be written to.
    """
    if comm.is_main_process():
        make_folder(folder)
    comm.synchronize()
    setup_logger.cache_clear()  # it remembers folders, and would not write to one again
    for name in ("detectron2", "fvcore", "ovdet"):
        of_name = logging.getLogger(name)  # whose handlers of an evaluation before go: its log is complete
        of_name.handlers = [each for each in of_name.handlers if type(each) is not logging.StreamHandler]
        setup_logger(str(folder), distributed_rank=comm.get_rank(), name=name)


def classes_of(
    dataset_name: str,
    embed_names: NameEmbedder,
    training_classes: Sequence[str] = (),
    *,
    learned_classes: Sequence[str] = (),
    vocabulary: Vocabulary | None = None,
    negatives: Sequence[str] = (),
) -> ClassEmbeddings:
    """A registered data set's classes, in its order.

    Score fusion weighs those as base that the data set's split calls so; without a split, the `training_classes`.

    Args:
        dataset_name: whose `thing_classes` are asked for.
        embed_names: names -> embeddings.
        training_classes: that the detector was trained on.
        learned_classes: that an expert of it learned.
        vocabulary: more names of these classes, see `with_synonyms`; None for their own names alone.
        negatives: see `build_classes`.

    Raises:
        InputError: as of `with_synonyms` and `build_classes`.
    """
    metadata = MetadataCatalog.get(dataset_name)
    names = with_synonyms(metadata.thing_classes, vocabulary)
    base = metadata.get("base_classes", ()) or training_classes
    told = dict(base_classes=base, learned_classes=learned_classes, negatives=negatives)
    return build_classes(names, embed_names, **told)


def with_synonyms(names: Sequence[str], vocabulary: Vocabulary | None) -> Vocabulary:
    """Class names with the synonyms that a vocabulary has for them.

    Args:
        names: of a data set, in its order and spelling.
        vocabulary: each of its names is the same as one of these; None for no synonyms.

    Raises:
        InputError: the vocabulary has a name that is none of these.
    """
    if vocabulary is None:
        return Vocabulary(tuple(names))
    spelling = {normalize_class_name(name): name for name in names}
    odd = [name for name in vocabulary.names if normalize_class_name(name) not in spelling]
    if odd:
        near = nearest_name(odd[0], names)
        raise InputError(
            f"expected names of the data set's {len(names)} classes in the vocabulary, got {odd[0]!r}{near}"
        )
    synonyms = {spelling[normalize_class_name(name)]: more for name, more in vocabulary.synonyms.items()}
    return Vocabulary(tuple(names), synonyms, negatives=vocabulary.negatives)


def run_detector(
    model: nn.Module, loader: DataLoader, evaluator: DatasetEvaluator, classes: ClassEmbeddings
) -> Mapping[str, Any]:
    """Run a model over photos and hand what it finds to an evaluator, behind a bar with rate and time left.

    Args:
        model: as detectron2's; it is in evaluation mode meanwhile.
        loader: of `build_detection_test_loader`; on several GPUs each process runs its share. Threads read its photos,
            as many as it names workers.
        evaluator: as detectron2's.
        classes: what the model is asked for.

    Returns:
        The evaluator's results on the main process, {} elsewhere.
    """

    def load(indices: Sequence[int]) -> list[dict]:
        return loader.collate_fn([loader.dataset[index] for index in indices])

    def detect() -> Iterator[int]:
        threads = max(loader.num_workers, 1)
        with closing(read_ahead(loader.batch_sampler, load, threads=threads, ahead=2 * threads)) as batches:
            for inputs in batches:
                evaluator.process(inputs, model(inputs, classes=classes))
                yield len(inputs)

    evaluator.reset()
    total, start = len(loader.sampler), time.perf_counter()
    with inference_context(model), torch.no_grad():
        show_progress("detecting", detect(), total, shown=comm.is_main_process())
    seconds = time.perf_counter() - start
    logger.info("%d photos in %.1f s: %.2f photos/s", total, seconds, total / seconds)
    return evaluator.evaluate() or {}


def do_test(config: DictConfig, model: nn.Module, classes: ClassEmbeddings) -> Mapping[str, Any]:
    """Evaluate on `config.dataloader.test` with `config.dataloader.evaluator`, which writes metrics and detections.

    Args:
        config: as for do_train.
        model: `model(inputs, classes=...)`.
        classes: of the test set, see `classes_of`.

    Returns:
        The evaluator's results on the main process, {} elsewhere.
    """
    return run_detector(model, instantiate(config.dataloader.test), instantiate(config.dataloader.evaluator), classes)

"""The training loader: what a step sees depends on seed and step alone, so that a resumed run goes on exactly.

detectron2's loader gives the same batches, but begins anew with each start of a run.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetFromList
from detectron2.data.build import trivial_batch_collator
from detectron2.data.samplers import TrainingSampler
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset, Sampler

from ovdet.errors import InputError

Draw = tuple[int, int]  # how many photos the process has drawn before, and the index of this one
_TRIES = 100  # photos that are drawn in place of one that the mapper leaves out


def build_resumable_loader(
    dataset: Sequence[Mapping[str, Any]],
    *,
    mapper: Callable[[dict[str, Any]], dict[str, Any] | None],
    total_batch_size: int,
    sampler: Callable[..., Iterable[int]] | None = None,
    aspect_ratio_grouping: bool = True,
    num_workers: int = 0,
    seed: int = 0,
    start: int = 0,
    **options: Any,
) -> ResumableLoader:
    """Batches without end for training, with the arguments of detectron2's `build_detection_train_loader`.

    Args:
        dataset: dataset dicts, with "width" and "height" if they are grouped.
        mapper: dataset dict -> what the model takes; None has another photo taken.
        total_batch_size: of all processes, which share it evenly.
        sampler: (dataset, seed=) -> indices of this process without end; None shuffles.
        aspect_ratio_grouping: batches of wide photos, and of high ones, for less padding.
        num_workers: processes that load photos; 0 loads them in this one. They change no batch.
        seed: of the order of the photos, and of what is random in the mapper; the same on all processes.
        start: steps that are done; the first batch is that of the next one.
        options: of torch's DataLoader.
    """
    sampler = TrainingSampler(len(dataset), seed=seed) if sampler is None else sampler(dataset, seed=seed)
    groups = [each["width"] > each["height"] for each in dataset] if aspect_ratio_grouping else [True] * len(dataset)
    batches = TrainingBatches(sampler, groups, total_batch_size // comm.get_world_size(), start=start)
    mapped = SeededDataset(DatasetFromList(dataset, copy=False), mapper, seed)
    return ResumableLoader(
        mapped,
        batch_sampler=batches,
        num_workers=num_workers,
        collate_fn=trivial_batch_collator,
        generator=torch.Generator(),  # else it draws from the model's random numbers when it begins
        **options,
    )


class ResumableLoader(DataLoader):
    """torch's, where a worker that is killed is an InputError."""

    def __iter__(self) -> Iterator[list]:
        try:
            yield from super().__iter__()
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            why = "one was killed, most likely for memory: fewer dataloader.train.num_workers need less"
            raise InputError(f"expected the {self.num_workers} processes that load photos to live, {why}") from error


class TrainingBatches(Sampler[list[Draw]]):
    """A sampler's indices as batches, each of one group."""

    def __init__(self, indices: Iterable[int], groups: Sequence[Any], batch_size: int, *, start: int = 0) -> None:
        """
        Args:
            indices: without end, the same ones each time that they are iterated over.
            groups: of each index.
            batch_size: of this process.
            start: batches to leave out.
        """
        self._indices, self._groups, self._batch_size, self._start = indices, groups, batch_size, start

    def __iter__(self) -> Iterator[list[Draw]]:
        return islice(self._all(), self._start, None)

    def _all(self) -> Iterator[list[Draw]]:
        waiting: dict[Any, list[Draw]] = {}
        for draw in enumerate(self._indices):
            batch = waiting.setdefault(self._groups[draw[1]], [])
            batch.append(draw)
            if len(batch) == self._batch_size:
                yield waiting.pop(self._groups[draw[1]])


class SeededDataset(Dataset):
    """Mapped photos, where what is random depends on the seed and on which draw it is, whatever process makes it."""

    def __init__(self, dataset: Sequence[Any], mapper: Callable[[Any], Any | None], seed: int) -> None:
        """
        Args:
            dataset: of dataset dicts.
            mapper: dataset dict -> what the model takes; None has another photo drawn.
            seed: the same on all processes.
        """
        self._dataset, self._mapper, self._seeds = dataset, mapper, (seed, comm.get_rank())

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, draw: Draw) -> Any:
        turn, index = draw
        with random_numbers(*self._seeds, turn):
            for _ in range(_TRIES):
                mapped = self._mapper(self._dataset[index])
                if mapped is not None:
                    return mapped
                index = random.randrange(len(self._dataset))
        raise InputError(f"expected a mapper that takes photos, it left out each of {_TRIES} that were drawn")


@contextmanager
def random_numbers(*seeds: int) -> Iterator[None]:
    """Python's, NumPy's and torch's random numbers on the CPU by these seeds, for a `with` block.

    Args:
        seeds: at least 0. Other numbers, or another order of them, are another seed.
    """
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seed_cpu(*seeds)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


def seed_cpu(*seeds: int) -> int:
    """Seed what `random_numbers` speaks of, for good.

    Returns:
        The seed that torch was given.
    """
    for_torch, for_numpy, for_python = map(int, np.random.SeedSequence(seeds).generate_state(3))
    random.seed(for_python)
    np.random.seed(for_numpy)
    torch.default_generator.manual_seed(for_torch)
    return for_torch

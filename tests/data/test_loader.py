"""The training loader: the batches of detectron2's, from any step on, whatever process loads them."""

import random
from collections.abc import Iterator
from itertools import islice

import numpy as np
import pytest
import torch
from detectron2.data import build_detection_train_loader
from detectron2.data.samplers import TrainingSampler

from ovdet.data.loader import build_resumable_loader, random_numbers
from ovdet.errors import InputError

DICTS = [{"image_id": i, "width": 20 + 30 * (i % 3), "height": 40} for i in range(11)]


def at_random(record: dict) -> tuple:
    """A mapper with all three kinds of random numbers."""
    return record["image_id"], random.random(), np.random.rand(), float(torch.rand(()))


def batches(number: int, mapper=at_random, **options) -> list[list]:
    return list(islice(iter(build_resumable_loader(DICTS, mapper=mapper, total_batch_size=2, **options)), number))


@pytest.mark.parametrize("grouped", [True, False])
def test_photos_come_as_from_detectron2s_loader(grouped):
    reference = build_detection_train_loader(
        DICTS, mapper=dict, sampler=TrainingSampler(11, seed=3), total_batch_size=2, aspect_ratio_grouping=grouped
    )
    expected = [[each["image_id"] for each in batch] for batch in islice(iter(reference), 20)]
    found = [[each[0] for each in batch] for batch in batches(20, seed=3, aspect_ratio_grouping=grouped)]
    assert found == expected


@pytest.mark.parametrize("start", [1, 7])
def test_from_a_later_step_on_all_is_as_if_there_had_been_no_start(start):
    assert batches(12 - start, seed=5, start=start) == batches(12, seed=5)[start:]


def test_workers_change_nothing_and_seeds_all():
    assert batches(6, seed=5, num_workers=2) == batches(6, seed=5)
    other = {each[1:] for batch in batches(6, seed=6) for each in batch}
    assert len(other) == 12 and not other & {each[1:] for batch in batches(6, seed=5) for each in batch}


def few(record: dict) -> tuple | None:
    return at_random(record) if record["image_id"] in (2, 7) else None


@pytest.mark.parametrize("options", [{}, {"num_workers": 2}])
def test_for_a_photo_that_the_mapper_leaves_out_comes_another_the_same_one_in_each_run(options):
    whole = batches(12, few, seed=5)
    assert {each[0] for batch in whole for each in batch} == {2, 7}
    assert batches(5, few, seed=5, start=7, **options) == whole[7:]


def test_a_mapper_that_takes_none():
    with pytest.raises(InputError, match="expected a mapper that takes photos"):
        batches(1, lambda record: None)


def test_the_model_s_random_numbers_are_left_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    batches(3)
    assert torch.equal(torch.get_rng_state(), before[0]) and random.getstate() == before[1]
    assert np.random.get_state()[1].tolist() == before[2]


def test_random_numbers_of_a_block():
    with random_numbers(1, 2):
        first = at_random({"image_id": 0})
    with random_numbers(1, 2):
        assert at_random({"image_id": 0}) == first
    with random_numbers(2, 1):
        assert at_random({"image_id": 0})[1:] != first[1:]


def die(record: dict) -> None:
    import os
    import signal

    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_one_line():
    loader: Iterator = iter(build_resumable_loader(DICTS, mapper=die, total_batch_size=1, num_workers=1))
    with pytest.raises(InputError, match="dataloader.train.num_workers"):
        next(loader)

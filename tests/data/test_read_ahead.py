"""Work ahead of its consumer: order, distance, threads that end, batches of like items."""

from __future__ import annotations

import random
import threading
import time
from itertools import groupby

import pytest

from ovdet.data.read_ahead import alike, in_order, read_ahead


def test_order_and_distance():
    begun, lock, results = [], threading.Lock(), []

    def read(item):
        with lock:
            begun.append(item)
        time.sleep(0.001 * (item % 3))
        return item * item

    for result in read_ahead(range(40), read, threads=4, ahead=6):
        results.append(result)
        time.sleep(0.001)
        assert len(begun) - len(results) <= 6
    assert results == [item * item for item in range(40)]
    assert list(read_ahead([], read, threads=2, ahead=3)) == []


def test_an_error_comes_in_its_turn():
    def items():
        yield from (1, 2)
        raise KeyError("source")

    before, results = threading.active_count(), []
    with pytest.raises(ZeroDivisionError):
        results.extend(read_ahead([1, 0, 2], lambda item: 1 / item, threads=2, ahead=3))
    with pytest.raises(KeyError, match="source"):
        results.extend(read_ahead(items(), float, threads=2, ahead=5))
    assert results == [1, 1, 2] and threading.active_count() == before


def test_who_stops_early_leaves_no_thread_and_closes_the_source():
    closed, started = [], []

    def items():
        try:
            yield from range(1000)
        finally:
            closed.append(True)

    before = threading.active_count()
    inner = read_ahead(items(), lambda item: started.append(item) or item, threads=3, ahead=4)
    outer = read_ahead(inner, float, threads=1, ahead=2)
    assert next(outer) == 0
    assert threading.active_count() > before
    outer.close()
    assert closed == [True] and threading.active_count() == before and len(started) < 20


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_batches_of_like_items_and_their_order(batch_size):
    items = random.Random(0).choices("abc", k=50)
    taken = []

    def source():
        for item in items:
            taken.append(item)
            yield item

    batches, given = [], 0
    for batch in alike(source(), str.upper, batch_size=batch_size, window=4 * batch_size):
        given += len(batch)
        assert len(taken) - given <= 4 * batch_size
        batches.append(batch)
    assert all(len({item for _, item in batch}) == 1 and len(batch) <= batch_size for batch in batches)
    assert list(in_order(pair for batch in batches for pair in batch)) == items
    # never more of them than neighbors alone would make
    assert len(batches) <= sum(-(-len(list(run)) // batch_size) for _, run in groupby(items))
    assert list(alike([], str, batch_size=2, window=4)) == []

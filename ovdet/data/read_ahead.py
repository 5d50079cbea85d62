"""Work that is done ahead of whoever takes the results: in threads, in order, in bounded memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

MAX_READERS = 8  # decoders that keep a fast GPU busy
_END: Any = object()

Item, Result = TypeVar("Item"), TypeVar("Result")


def num_readers() -> int:
    """Threads that decode photos: one for each core that this process may use, up to MAX_READERS."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MAX_READERS)


def read_ahead(items: Iterable[Item], read: Callable[[Item], Result], *, threads: int, ahead: int) -> Iterator[Result]:
    """`map(read, items)` in order, computed by threads up to `ahead` results in advance.

    A thread of its own iterates over the items, so that a generator works ahead, too. No thread outlives the
    iteration: where the caller stops early, what has begun is waited for and the rest is dropped.

    Args:
        items: closed at the end if it is a generator.
        read: called in several threads at once.
        threads: how many.
        ahead: at least 1.

    Raises:
        Exception: of an item or of `read`, in the place of its result; nothing comes after it.
    """
    iterator, waiting = iter(items), deque[Future]()

    def read_next(item: Future) -> Any:
        item = item.result()
        return _END if item is _END else read(item)

    with ThreadPoolExecutor(1) as source, ThreadPoolExecutor(threads) as pool:
        try:
            waiting.extend(pool.submit(read_next, source.submit(next, iterator, _END)) for _ in range(ahead))
            while (result := waiting.popleft().result()) is not _END:
                waiting.append(pool.submit(read_next, source.submit(next, iterator, _END)))
                yield result
        finally:
            source.shutdown(cancel_futures=True)
            pool.shutdown(cancel_futures=True)
            if hasattr(iterator, "close"):
                iterator.close()


def alike(
    items: Iterable[Item], key: Callable[[Item], Hashable], *, batch_size: int, window: int
) -> Iterator[list[tuple[int, Item]]]:
    """Items in batches of equal keys, each with its place among all; `in_order` puts them back.

    A batch goes when it is full, or when its first item is the oldest that waits and `window` items have come since.

    Args:
        items: any number.
        key: of an item.
        batch_size: items of a batch at most.
        window: the most places between two items that wait, which bounds them and what `in_order` has to keep.
    """
    waiting: dict[Hashable, list[tuple[int, Item]]] = {}  # by key; the oldest item is the first of the first list
    for place, item in enumerate(items):
        group = key(item)
        waiting.setdefault(group, []).append((place, item))
        if len(waiting[group]) == batch_size:
            yield waiting.pop(group)
        oldest = next(iter(waiting), group)
        if oldest in waiting and place - waiting[oldest][0][0] + 1 >= window:
            yield waiting.pop(oldest)
    yield from waiting.values()


def in_order(numbered: Iterable[tuple[int, Item]]) -> Iterator[Item]:
    """Items by their places 0, 1, ..., each as soon as those before it are there."""
    early: dict[int, Item] = {}
    due = 0
    for place, item in numbered:
        early[place] = item
        while due in early:
            yield early.pop(due)
            due += 1

"""Memory: Python's garbage collection while much is built, and what glibc's malloc does with what is freed."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # glibc's malloc.h


@contextmanager
def collection_paused() -> Iterator[None]:
    """No search for cyclic garbage in a `with` block: imports make hardly any, and it takes a fifth of their time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def imports_kept() -> Iterator[None]:
    """No search for cyclic garbage in a `with` block of imports, nor ever in what they made, which stays to the end.

    torch alone makes a quarter of a million objects, which each full search would look at again, and the program's end.
    """
    known = len(sys.modules)
    with collection_paused():
        yield
        if len(sys.modules) > known:
            gc.freeze()


def reuse_freed_memory() -> bool:
    """Tell glibc to hand freed memory back to the program instead of to the system.

    By default each large temporary is mapped and faulted in anew, which costs more than the arithmetic on it. The price
    is a resident size that stays at its peak.

    Returns:
        Whether it took effect; elsewhere than on glibc it does nothing.
    """
    mallopt = _glibc("mallopt")
    return mallopt is not None and bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))


def give_back_freed_memory() -> bool:
    """Hand back to the system, once, what was freed and kept.

    Returns:
        Whether it took effect, see reuse_freed_memory.
    """
    malloc_trim = _glibc("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(0)
    return malloc_trim is not None


def _glibc(name: str) -> Callable[..., int] | None:
    """A function of glibc, None elsewhere."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        return getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError):
        return None

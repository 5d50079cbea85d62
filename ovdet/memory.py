"""Memory on CPUs: keep what was freed for the next allocation."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # glibc's malloc.h


def reuse_freed_memory() -> bool:
    """Tell glibc to hand freed memory back to the program instead of to the system.

    By default each large temporary is mapped and faulted in anew, which costs more than the arithmetic on it. The price
    is a resident size that stays at its peak.

    Returns:
        Whether it took effect; elsewhere than on glibc it does nothing.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))

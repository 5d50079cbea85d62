"""How much memory a function takes while it runs."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from pathlib import Path

from ovdet.memory import give_back_freed_memory

_STATUS = Path("/proc/self/status")


def peak_memory(function: Callable[[], object]) -> int | None:
    """Bytes by which the process grows at most while the function runs; None where /proc does not tell.

    What is mapped from files is not counted: the system takes it back where memory is short.
    """
    if not _STATUS.exists():
        return None
    give_back_freed_memory()  # what is used again would not count
    before = highest = _own_memory()
    done = threading.Event()

    def watch() -> None:
        nonlocal highest
        while not done.wait(0.001):
            highest = max(highest, _own_memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        function()
    finally:
        done.set()
        watcher.join()
    return max(highest, _own_memory()) - before


def _own_memory() -> int:
    return int(re.search(r"RssAnon:\s+(\d+) kB", _STATUS.read_text()).group(1)) * 1024

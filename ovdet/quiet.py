"""Keeping other libraries' logs, warnings and progress bars out of a command's output."""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet_libraries(*, progress_bars: bool = True) -> Iterator[None]:
    """No logs and warnings for the time of a `with` block: what fails in it is said once, by an InputError.

    Args:
        progress_bars: False hides those of transformers and of the hub's client too, if transformers is imported.
    """
    root, disabled = logging.getLogger(), logging.root.manager.disable
    handler = logging.NullHandler()
    root.addHandler(handler)  # `logging.info`, as open_clip calls it, would set one up for the whole program
    logging.disable(logging.CRITICAL)
    bars = None if progress_bars else sys.modules.get("transformers.utils.logging")
    hides_bars = bars is not None and bars.is_progress_bar_enabled()
    if hides_bars:
        bars.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        root.removeHandler(handler)
        if hides_bars:
            bars.enable_progress_bar()

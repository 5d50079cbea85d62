"""The one exception for what a user can put right, and the one place that turns it into a command's exit."""

from __future__ import annotations

import functools
import logging
import sys
import warnings
from collections.abc import Callable

from ovdet.memory import reuse_freed_memory


class InputError(ValueError):
    """The user's input does not fit. The message is one line: what was expected, and what came."""


def command(main: Callable[[], None]) -> Callable[[], None]:
    """Run a command line's `main`; an InputError becomes one line on stderr and exit code 2.

    Freed memory is kept for reuse (see memory.py), and two warnings that libraries address to each other are left out.
    """

    @functools.wraps(main)
    def run() -> None:
        reuse_freed_memory()
        warnings.filterwarnings("ignore", message="torch.meshgrid: in an upcoming release")  # detectron2's anchors
        logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)  # detectron2's question for tracing
        try:
            main()
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)

    return run

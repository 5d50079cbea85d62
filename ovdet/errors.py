"""The one exception for what a user can put right, and the one place that turns it into a command's exit."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable

from ovdet.memory import reuse_freed_memory


class InputError(ValueError):
    """The user's input does not fit. The message is one line: what was expected, and what came."""


def command(main: Callable[[], None]) -> Callable[[], None]:
    """Run a command line's `main`; an InputError becomes one line on stderr and exit code 2.

    Freed memory is kept for reuse, see memory.py.
    """

    @functools.wraps(main)
    def run() -> None:
        reuse_freed_memory()
        try:
            main()
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)

    return run

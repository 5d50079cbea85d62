"""The one exception for what a user can put right, and the one place that turns it into a command's exit."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable


class InputError(ValueError):
    """The user's input does not fit. The message is one line: what was expected, and what came."""


def command(main: Callable[[], None]) -> Callable[[], None]:
    """Run a command line's `main`; an InputError becomes one line on stderr and exit code 2."""

    @functools.wraps(main)
    def run() -> None:
        try:
            main()
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)

    return run

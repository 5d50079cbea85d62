"""Progress bars. They are drawn on stderr: stdout is for results, which programs read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import rich.progress
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

_T = TypeVar("_T")


def track(sequence: Iterable[_T], description: str, total: float | None = None, **options: Any) -> Iterable[_T]:
    """Go through a sequence behind a bar; options as of rich's `track`.

    A bar that would go away at the end (`transient`) is not drawn where stderr is no terminal: it would leave a line.
    """
    console = Console(stderr=True)
    options["disable"] = options.get("disable", False) or (options.get("transient", False) and not console.is_terminal)
    return rich.progress.track(sequence, description, total, console=console, **options)


def passing_bar(*, shown: bool = True) -> Progress:
    """A bar that goes away at the end, and is not drawn where stderr is no terminal."""
    console = Console(stderr=True)
    return Progress(console=console, transient=True, disable=not (shown and console.is_terminal))


def show_progress(
    what: str, steps: Iterable[int], total: int, *, done_by_others: Callable[[], int] = int, shown: bool = True
) -> None:
    """Draw a bar for work on photos, with rate and time left, while `steps` are taken.

    Args:
        what: is done.
        steps: numbers of photos done, one after the other.
        total: photos of this run.
        done_by_others: how many photos other processes have done by now.
        shown: False takes the steps without a bar.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not shown) as progress:
        task = progress.add_task(what, total=total)
        mine = 0
        for photos in steps:
            mine += photos
            progress.update(task, completed=mine + done_by_others())


class _Rate(ProgressColumn):
    """Photos per second."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.2f} photos/s")

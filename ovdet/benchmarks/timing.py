"""Interleaved timing: contenders run in turns in one process, and medians and their ratios are reported.

Clock, neighbors and caches of a machine change by the minute, so a time means little without its peer's beside it.
"""

from __future__ import annotations

import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from ovdet.files import atomic_write
from ovdet.progress import track

# a process is at rest that in so many looks of so many seconds in a row has used less than this share of a core
_GLANCES, _GLANCE, _BUSY = 5, 0.01, 0.2


@dataclass(frozen=True)
class Row:
    """One case of a benchmark: median seconds of ours, a peer and a lower bound.

    Attributes:
        case: description with sizes.
        ours_s: of this package.
        peer: name of what it is compared with; "" for none.
        peer_s: of the peer; None without one.
        limit_s: lower bound, of the work that cannot be left out (a bare matrix product, say); None without one.
        device: name of the processor or GPU.
        spread: (slowest - fastest) / median of ours over the rounds.
    """

    case: str
    ours_s: float
    peer: str = ""
    peer_s: float | None = None
    limit_s: float | None = None
    device: str = "cpu"
    spread: float = 0.0

    @property
    def speedup(self) -> float | None:
        """Peer / ours: how many times as fast as the peer."""
        return None if self.peer_s is None else self.peer_s / self.ours_s

    @property
    def of_limit(self) -> float | None:
        """Limit / ours: 1 is as fast as it can be."""
        return None if self.limit_s is None else self.limit_s / self.ours_s

    def as_dict(self) -> dict:
        """The row as plain values, with the two ratios."""
        return {**asdict(self), "speedup": self.speedup, "of_limit": self.of_limit}


def time_in_turns(
    contenders: Mapping[str, Callable[[], object]], *, rounds: int = 5, device: torch.device | str = "cpu"
) -> dict[str, list[float]]:
    """Seconds of each contender: all run once to warm up, then once per round, in turns.

    Each begins when the threads of the one before are at rest: onnxruntime's go on for some 40 ms in a busy loop, for
    more work to come, and would take a core from the next.

    Args:
        contenders: functions by name.
        rounds: timed runs of each.
        device: synchronized before and after each run.

    Returns:
        Seconds of each round, by name.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in track(range(rounds + 1), "timing", transient=True):
        for name, contender in contenders.items():
            wait_for(device)
            wait_for_rest()
            start = time.perf_counter()
            contender()
            wait_for(device)
            if number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def wait_for(device: torch.device | str) -> None:
    """Synchronize with a GPU; nothing to do on a CPU."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def wait_for_rest(most: float = 1.0) -> None:
    """Wait until this process has done nothing for a while, up to `most` seconds in all."""
    deadline, glances = time.monotonic() + most, 0
    while glances < _GLANCES and time.monotonic() < deadline:
        used = time.process_time()
        time.sleep(_GLANCE)
        glances = glances + 1 if time.process_time() - used < _BUSY * _GLANCE else 0


def compare(
    case: str,
    ours: Callable[[], object],
    *,
    peer: tuple[str, Callable[[], object]] | None = None,
    limit: Callable[[], object] | None = None,
    rounds: int = 5,
    device: torch.device | str = "cpu",
) -> Row:
    """Time ours, the peer and the lower bound in turns.

    Args:
        case: description with sizes.
        ours: this package's function.
        peer: name and function.
        limit: the work that cannot be left out.
        rounds: timed runs of each.
        device: see time_in_turns.
    """
    contenders = {"ours": ours, **({"peer": peer[1]} if peer else {}), **({"limit": limit} if limit else {})}
    seconds = time_in_turns(contenders, rounds=rounds, device=device)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return Row(
        case=case,
        ours_s=medians["ours"],
        peer=peer[0] if peer else "",
        peer_s=medians.get("peer"),
        limit_s=medians.get("limit"),
        device=describe_device(device),
        spread=(max(seconds["ours"]) - min(seconds["ours"])) / medians["ours"],
    )


def with_rate(row: Row, photos: int) -> Row:
    """A row whose case says how many photos a second that is, and would be at the lower bound."""
    rates = f"{photos / row.ours_s:.3g} photos/s" + (f" of {photos / row.limit_s:.3g}" if row.limit_s else "")
    return replace(row, case=f"{row.case}: {rates}")


def describe_device(device: torch.device | str = "cpu") -> str:
    """Name of a GPU ("NVIDIA H100"), or of the processor with the number of threads in use."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_processor()}, {torch.get_num_threads()} threads"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def print_rows(rows: Sequence[Row]) -> None:
    """Print a table of the rows, with device and versions."""
    table = Table("case", "ours", "peer", "", "limit", "peer / ours", "limit / ours", "spread")
    for row in rows:
        cells = (seconds_text(row.ours_s), row.peer, seconds_text(row.peer_s), seconds_text(row.limit_s))
        ratios = (ratio_text(row.speedup), ratio_text(row.of_limit), f"{row.spread:.0%}")
        table.add_row(row.case, *cells, *ratios)
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    console.print(f"{rows[0].device if rows else ''}; torch {torch.__version__}, Python {platform.python_version()}")


def seconds_text(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3g} s" if value >= 1 else f"{value * 1e3:.3g} ms"


def ratio_text(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def write_rows(rows: Sequence[Row], path: str | Path) -> None:
    """Write the rows to a json file, as a list of dicts.

    Raises:
        InputError: the place cannot be written to.
    """
    atomic_write(path, (json.dumps([row.as_dict() for row in rows], indent=1) + "\n").encode())

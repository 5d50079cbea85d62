"""All benchmarks in one run, and the page that is made of such runs."""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

import msgspec
import torch
from rich.console import Console

from ovdet.benchmarks.detectors import run as run_detectors
from ovdet.benchmarks.memory import Peak
from ovdet.benchmarks.parts import MEMORY, MEMORY_TEXTS, PARTS
from ovdet.benchmarks.timing import Row, describe_device, ratio_text, seconds_text
from ovdet.errors import InputError
from ovdet.files import atomic_write
from ovdet.typed import decoded
from ovdet.version import VERSION

FORMAT = "ovdet benchmarks 1"
_IDLE = 0.5  # load average up to which a machine counts as idle
_DETECTORS = (
    "The detectors",
    "ovdet-lite on one photo. `limit` is backbone, pyramid and RPN alone, which a detector of this kind has to run. "
    "Peers have random weights, so nothing passes their thresholds and their post-processing costs nothing.",
)


class Section(msgspec.Struct, omit_defaults=True):
    """One table, of times or of memory."""

    title: str
    about: str
    rows: list[Row] = []
    peaks: list[Peak] = []


class Report(msgspec.Struct):
    """The figures of one run, and the machine; `load` is the load average before it began."""

    format: str
    version: str
    commit: str
    date: str
    device: str
    cores: int
    load: float
    torch: str
    python: str
    command: str
    sections: list[Section]


def measure(
    *,
    parts: Sequence[str] = (),
    detectors: bool = True,
    rounds: int,
    device: str,
    command: str,
    yolox_file: str = "",
    runtimes: Sequence[str] = (),
    int8_file: str = "",
) -> Report:
    """Run the benchmarks, a table printed as soon as it is there.

    Args:
        parts: of PARTS, and MEMORY.
        detectors: these first; with all of PARTS OWLv2 is one of them.
        rounds: timed runs of each contender.
        device: of the detectors, the teacher and the training step.
        command: for the report.
        yolox_file: see `detectors.run`.
        runtimes: see `detectors.run`.
        int8_file: likewise.

    Raises:
        InputError: a file or device that is not there.
    """
    load = os.getloadavg()[0]
    sections = []
    if detectors:
        peers = dict(yolox_file=yolox_file, large_peers=set(PARTS) <= set(parts))
        given = dict(runtimes=runtimes, int8_file=int8_file, **peers)
        sections.append(_shown(Section(*_DETECTORS, run_detectors(rounds=rounds, device=device, **given))))
    sections += [_shown(_run_part(name, rounds, device)) for name in parts]
    return Report(
        format=FORMAT,
        version=VERSION,
        commit=_commit(),
        date=datetime.now(timezone.utc).date().isoformat(),
        device=describe_device(device),
        cores=os.cpu_count() or 1,
        load=round(load, 1),
        torch=str(torch.__version__),
        python=platform.python_version(),
        command=command,
        sections=sections,
    )


def _run_part(name: str, rounds: int, device: str) -> Section:
    module = importlib.import_module(f"{__package__}.{name}")
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    if name == MEMORY:
        return Section(*MEMORY_TEXTS, peaks=module.run(parser.parse_args([])))
    title, about, words = PARTS[name]
    arguments = parser.parse_args(words)
    arguments.rounds = min(rounds, 3)
    if hasattr(arguments, "device"):
        arguments.device = device
    return Section(title, about, module.run(arguments))


def _shown(section: Section) -> Section:
    console = Console(width=200, soft_wrap=True)
    console.print(section.title, *_table(section), "", sep="\n", markup=False, highlight=False)
    return section


def _commit() -> str:
    """Of the checkout that this file lies in, "" where it lies in none."""
    try:
        words = ("git", "describe", "--always", "--dirty", "--abbrev=7")
        found = subprocess.run(words, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return found.stdout.strip()


def write_report(report: Report, path: str | Path) -> None:
    """Write it as json.

    Raises:
        InputError: the place cannot be written to.
    """
    atomic_write(path, msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")


def read_report(path: str | Path) -> Report:
    """Read a report that `write_report` wrote.

    Raises:
        InputError: it is not there, or something else.
    """
    try:
        content = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"expected a file by ovdet benchmark --output, got {path}, which cannot be read") from error
    report = decoded(content, Report, "a file by ovdet benchmark --output", path)
    if report.format != FORMAT:
        raise InputError(f"expected {FORMAT}, got {report.format!r} in {path}")
    return report


def page(reports: Sequence[Report]) -> str:
    """The benchmarks' page in Markdown: a chapter for each run."""
    lines = [
        "# Benchmarks",
        "",
        "This page is written by `ovdet benchmark --page`, from files by `ovdet benchmark --all` or `--parts` with "
        "`--output`. In each row ours, peer and limit took turns in one process; times are medians, `spread` is "
        "(slowest - fastest) / median. On another machine only the ratios mean something: `peer / ours` is how many "
        "times as fast ovdet is, a `limit / ours` of 1 is as fast as it can be. What was measured by hand, on GPUs "
        "too, is in "
        "[lab/speed.md](lab/speed.md).",
    ]
    for report in reports:
        lines += ["", f"## {report.device}", "", *_facts(report)]
        for section in report.sections:
            lines += ["", f"### {section.title}", "", section.about, "", *_table(section)]
    return "\n".join(lines) + "\n"


def _facts(report: Report) -> list[str]:
    versions = f"ovdet {report.version}{f' ({report.commit})' if report.commit else ''}, torch {report.torch}"
    lines = [f"`{report.command}`", "", f"{report.date}, {report.cores} cores; {versions}, Python {report.python}."]
    if report.load > _IDLE and any(section.rows for section in report.sections):
        lines += ["", f"**Made on a loaded machine** (load average {report.load} before it began): rough figures."]
    return lines


def _table(section: Section) -> list[str]:
    """Rows of a Markdown table."""
    if section.peaks:
        cells = [(each.case, f"{each.peak_mib:,.0f} MiB", f"{each.limit_mib:,.0f} MiB") for each in section.peaks]
        return ["| case | peak | limit |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in cells)]
    lines = [
        "| case | ours | peer | | limit | peer / ours | limit / ours | spread |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in section.rows:
        cells = (row.case, seconds_text(row.ours_s), row.peer, seconds_text(row.peer_s), seconds_text(row.limit_s))
        ratios = (ratio_text(row.speedup), ratio_text(row.of_limit), f"{row.spread:.0%}")
        lines.append(f"| {' | '.join((*cells, *ratios))} |")
    return lines

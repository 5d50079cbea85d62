"""The findings of `ovdet doctor`. Nothing beyond the standard library is imported before it is known to be there."""

from __future__ import annotations

import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

from ovdet.errors import error_summary, missing_library
from ovdet.install import detectron2_file, import_error
from ovdet.version import VERSION

_DETECTRON2 = "detectron2"
_SIZE = (480, 640)  # height and width of the timed photo
_NAMES = ("cat", "dog", "red kite", "wheel", "cup")


@dataclass(frozen=True)
class Diagnosis:
    """Versions, device, speed and problems of this installation.

    Attributes:
        versions: of ovdet, Python, the packages that it needs and those of its extras; None for what is missing.
        device: "cuda: NAME" or "cpu: THREADS threads"; None without torch.
        seconds: that one photo takes; None where detection does not run.
        problems: what is missing or fails, each with what to do, a line each.
        notes: extras that are not installed, each with what installs it.
    """

    versions: dict[str, str | None]
    device: str | None
    seconds: float | None
    problems: tuple[str, ...]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        speed = None if self.seconds is None else round(self.seconds, 4)
        said = {"problems": list(self.problems), "notes": list(self.notes)}
        return {"versions": self.versions, "device": self.device, "seconds_per_photo": speed, **said}

    def lines(self) -> list[str]:
        """To be read."""
        width = max(map(len, self.versions))
        rows = [f"{name.ljust(width)}  {found or 'missing'}" for name, found in self.versions.items()]
        rows.append(f"{'device'.ljust(width)}  {self.device or 'unknown'}")
        if self.seconds is not None:
            height, across = _SIZE
            rows.append(f"{'one photo'.ljust(width)}  {self.seconds:.3f} s ({across} x {height}, {len(_NAMES)} names)")
        rows += [f"note: {note}" for note in self.notes]
        rows += [f"problem: {problem}" for problem in self.problems]
        return [*rows, f"{len(self.problems)} problems" if self.problems else "all that ovdet needs is here"]


def diagnose() -> Diagnosis:
    """Look at this environment; loads the detector of the package if it can be loaded."""
    versions: dict[str, str | None] = {"ovdet": VERSION, "python": platform.python_version()}
    problems, missing = [], {}
    for name, extra in _requirements():
        versions[name] = found = _version(name)
        if found is None and extra is None:
            problems.append(f"{name} is not installed: {_pip('ovdet')}")
        elif found is None:
            missing.setdefault(extra, []).append(name)
    versions[_DETECTRON2] = _version("sal-detectron2") or _version(_DETECTRON2) or detectron2_file()
    error = import_error()
    if error is not None:
        fix = "`ovdet doctor --fix` installs it" if detectron2_file() is None else "remove or rebuild it"
        problems.append(missing_library(error) or f"detectron2 cannot be imported ({error}): {fix}")
    problems += _pip_check()
    device, seconds = _device(), None
    if not problems:
        try:
            seconds = seconds_per_photo()
        except Exception as error:  # whatever is wrong here is what is asked for
            problems.append(f"the detector does not run: {error_summary(error)}")
    notes = [f"without {', '.join(names)}: {_pip(f'ovdet[{extra}]')}" for extra, names in missing.items()]
    return Diagnosis(versions, device, seconds, tuple(problems), tuple(notes))


def seconds_per_photo(rounds: int = 3) -> float:
    """Time of the package's detector for one photo, names embedded before; the best of some rounds."""
    import numpy as np

    from ovdet.inference.predictor import OpenVocabPredictor

    predictor = OpenVocabPredictor.from_pretrained("ovdet-lite")
    predictor.set_vocabulary(_NAMES)
    photo = np.random.default_rng(0).integers(0, 256, (*_SIZE, 3), dtype=np.uint8)
    predictor(photo)  # the first one allocates
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        predictor(photo)
        times.append(time.perf_counter() - start)
    return min(times)


def _requirements() -> Iterable[tuple[str, str | None]]:
    """Names of the packages that ovdet asks for, each with the extra that asks or None; nothing for development."""
    try:
        given = requires("ovdet") or []
    except PackageNotFoundError:  # a checkout that was not installed
        given = []
    for requirement in given:
        name = re.match(r"[\w.-]+", requirement).group()
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", requirement)
        if extra is None or extra.group(1) != "dev":
            yield name, extra and extra.group(1)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _pip(what: str) -> str:
    return f"{sys.executable} -m pip install '{what}'"


def _pip_check() -> list[str]:
    """Packages of versions that do not fit each other, as pip sees them; none where there is no pip."""
    done = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True)
    lines = done.stdout.splitlines() if done.returncode else []
    return [line for line in lines if re.match(r"ovdet\b", line)]


def _device() -> str | None:
    """The device that torch computes on here."""
    try:
        import torch
    except Exception:  # missing, or built for another system
        return None
    if torch.cuda.is_available():
        return f"cuda: {torch.cuda.get_device_name()}"
    return f"cpu: {torch.get_num_threads()} threads"

"""Installing detectron2, which has no distribution under its own name on the package index. Standard library only.

`sal-detectron2` 0.7.2 carries the Python files of facebookresearch/detectron2 a59f0563 (2024-04-17); its compiled part
is for Python 3.10 only and nothing in ovdet needs it (RoIAlign and NMS come from torchvision).
"""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from ovdet.errors import InputError, missing_library

DISTRIBUTION = "sal-detectron2==0.7.2"
SHA256 = "491af0c7f79bdb2d178e46f6cb16a97c4ac968d45c41ea3f6b6435d59bbee561"
_USED = "from detectron2 import config, data, engine, evaluation, modeling, structures"


def detectron2_file() -> str | None:
    """The file that detectron2 is imported from; None where there is none, or an empty folder that pip left."""
    found = importlib.util.find_spec("detectron2")
    return None if found is None else found.origin


def import_error() -> str | None:
    """The error of importing what ovdet uses of detectron2, in a fresh process; None if there is none."""
    done = subprocess.run([sys.executable, "-c", _USED], capture_output=True, text=True)
    return None if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


def install_detectron2() -> str:
    """Install detectron2 into this environment, unless it can be imported: an official build stays.

    Returns:
        What was done, in a line.

    Raises:
        InputError: a detectron2 is there that fails, or pip could not install it; a line says what went wrong.
    """
    found, error = detectron2_file(), import_error()
    if error is None:
        return f"detectron2 is already importable and is left alone: {found}"
    if library := missing_library(error):
        raise InputError(library)
    if found is not None:
        raise InputError(f"expected a detectron2 that can be imported, {found} fails with {error}")
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder) / "requirements.txt"
        requirements.write_text(f"{DISTRIBUTION} --hash=sha256:{SHA256}\n", encoding="utf-8")
        code = subprocess.call(pip_command(requirements))
    if code:
        raise InputError(f"pip could not install {DISTRIBUTION} (exit code {code}); see its message above")
    importlib.invalidate_caches()
    if error := import_error():
        told = missing_library(error) or f"{DISTRIBUTION} is installed, but cannot be imported: {error}"
        raise InputError(told)
    return f"installed {DISTRIBUTION} (detectron2 a59f0563)"


def pip_command(requirements: Path) -> list[str]:
    """The pip call: the wheel is tagged for CPython 3.10, its Python files run on any version since."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--upgrade", "--no-deps"]
    checked = ["--require-hashes", "--only-binary=:all:"]
    tags = ["--python-version", "3.10", "--implementation", "cp", "--abi", "none", "--platform", "any"]
    place = ["--target", sysconfig.get_path("purelib"), "--requirement", str(requirements)]
    return [*pip, *checked, *tags, *place]

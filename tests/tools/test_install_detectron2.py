"""What is importable is left alone; what pip could not install is said. (`make` installs it for real.)"""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

import detectron2
import pytest

TOOL = Path(__file__).parents[2] / "tools/install_detectron2.py"


def install(python: str | Path) -> subprocess.CompletedProcess:
    return subprocess.run([python, TOOL], capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_what_is_there_is_left_alone():
    before = Path(detectron2.__file__).stat().st_mtime_ns
    run = install(sys.executable)
    assert run.returncode == 0 and f"left alone: {detectron2.__file__}" in run.stdout
    assert Path(detectron2.__file__).stat().st_mtime_ns == before


def test_all_that_is_used_is_enough_to_be_left_alone(tmp_path):
    """What can be imported is not looked at; a part less, and it fails."""
    venv.create(tmp_path / "bare", with_pip=False)
    package = next((tmp_path / "bare").rglob("site-packages")) / "detectron2"
    package.mkdir()
    for name in ("__init__", "config", "data", "engine", "evaluation", "modeling", "structures"):
        (package / f"{name}.py").touch()
    run = install(tmp_path / "bare/bin/python")
    assert run.returncode == 0 and f"left alone: {package}/__init__.py" in run.stdout
    assert len(list(package.glob("*.py"))) == 7
    (package / "structures.py").unlink()
    run = install(tmp_path / "bare/bin/python")
    assert run.returncode == 1 and "structures" in run.stderr.strip().splitlines()[-1]


def test_what_pip_cannot_do_is_said(tmp_path):
    venv.create(tmp_path / "bare", with_pip=False)
    run = install(tmp_path / "bare/bin/python")
    assert run.returncode == 1 and not run.stdout
    assert run.stderr.splitlines()[-1].startswith("error: pip could not install sal-detectron2==0.7.2 (exit code 1)")
    assert not list((tmp_path / "bare").rglob("detectron2"))


def test_an_empty_folder_is_no_detectron2(tmp_path):
    """What pip left half done: it is tried anew, here without pip."""
    venv.create(tmp_path / "bare", with_pip=False)
    packages = next((tmp_path / "bare").rglob("site-packages"))
    (packages / "detectron2").mkdir()
    run = install(tmp_path / "bare/bin/python")
    assert run.returncode == 1 and "left alone" not in run.stdout and "could not install" in run.stderr


def test_a_detectron2_that_fails_is_told(tmp_path):
    venv.create(tmp_path / "bare", with_pip=False)
    packages = next((tmp_path / "bare").rglob("site-packages"))
    (packages / "detectron2").mkdir()
    (packages / "detectron2/__init__.py").write_text("raise ImportError('compiled for another torch')")
    run = install(tmp_path / "bare/bin/python")
    assert run.returncode == 1 and "compiled for another torch" in run.stderr.strip().splitlines()[-1]
    assert (packages / "detectron2/__init__.py").is_file()

"""Prepare scripts run as a user runs them."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run_script(monkeypatch, capsys):
    """Run a script of datasets/ in this process -> exit code, stdout, stderr."""

    def run_script(name: str, *arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [f"datasets/{name}", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            runpy.run_path(str(ROOT / "datasets" / name), run_name="__main__")
        except SystemExit as stop:
            code = stop.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run_script


@pytest.fixture
def write(tmp_path):
    """Write an object as json below the test's folder -> the path."""

    def write(name: str, content: object) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
        return path

    return write


@pytest.fixture
def refused():
    """Of what a command left, the one line that refuses its input."""

    def refused(result: tuple[int, str, str]) -> str:
        code, out, err = result
        assert code == 2 and not out and "Traceback" not in err
        last = err.strip().splitlines()[-1]
        assert last.startswith("error: expected ")
        return last

    return refused

"""Command lines run as a user runs them."""

from __future__ import annotations

import logging
import runpy
import sys
from pathlib import Path

import pytest
from detectron2.utils.logger import setup_logger

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run_tool(monkeypatch, capsys):
    """Run a tool in this process (no start-up cost) -> exit code, stdout, stderr."""

    def run_tool(name: str, *arguments: object) -> tuple[int, str, str]:
        monkeypatch.chdir(ROOT)
        monkeypatch.setattr(sys, "argv", [f"tools/{name}", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            runpy.run_path(f"tools/{name}", run_name="__main__")
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        captured = capsys.readouterr()
        forget_log_handlers()
        return code, captured.out, captured.err

    return run_tool


def forget_log_handlers() -> None:
    """A run's handlers write to streams that pytest closes; the next run sets up its own."""
    setup_logger.cache_clear()
    for name in ("detectron2", "fvcore", "ovdet"):
        logging.getLogger(name).handlers.clear()

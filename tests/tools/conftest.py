"""Command lines run as a user runs them: one quick training for all tests, then its checkpoint is used."""

from __future__ import annotations

import logging
import runpy
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from detectron2.utils.logger import setup_logger

ROOT = Path(__file__).parents[2]
QUICK = "configs/quick/vild.py"


class Trained(NamedTuple):
    """What the quick training left."""

    output: Path  # its folder
    overrides: tuple[str, ...]  # that make the config fit it
    log: str


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Trained:
    """The quick config on a smaller drawn data set, four steps, by the real command in a process of its own."""
    folder = tmp_path_factory.mktemp("quick")
    overrides = (
        f"dataset.root={folder}/data",
        "dataset.prepare.num_train=16",
        "dataset.prepare.num_val=4",
        f"train.output_dir={folder}/run",
        "train.max_iter=4",
        "train.checkpoint_period=2",
        "dataloader.train.num_workers=0",
        "dataloader.test.num_workers=0",
        "dataloader.train.total_batch_size=2",
    )
    command = [sys.executable, "tools/train_net.py", "--config-file", QUICK, *overrides]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    return Trained(folder / "run", overrides, run.stdout + run.stderr)


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

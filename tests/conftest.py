"""Loads what all tests share (shared_fixtures.py) where tests are run: to hand them out to others needs none of it."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

import pytest

# reproduce is no part of the package; shared_fixtures.py and others are beside this file
sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "tools"), str(Path(__file__).parent)]
gc.disable()  # until all is collected: what is made up to then stays, and is not looked through again and again


def pytest_configure(config: pytest.Config) -> None:
    hands_out = config.getoption("numprocesses", None) and "PYTEST_XDIST_WORKER" not in os.environ
    if not hands_out:
        config.pluginmanager.import_plugin("shared_fixtures")


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)  # a test's own garbage
    gc.enable()

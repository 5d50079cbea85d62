"""A small part of the campaign of `make fuzz`: mutated files of every kind are read or refused in one line."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("number", "seed"), [(4, 1), pytest.param(400, 2, marks=pytest.mark.slow)])
def test_no_file_is_more_than_refused(number, seed):
    """In a process of its own, which has no threads yet when it forks."""
    command = [sys.executable, "tests/fuzz/fuzz.py", str(number), "--seed", str(seed)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.count("'refused'") >= 14  # it is not that nothing was mutated

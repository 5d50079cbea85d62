"""A small part of the campaign of `make fuzz`: mutated files of every kind are read or refused in one line."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from ovdet.errors import InputError

ROOT = Path(__file__).parents[2]


def test_no_file_is_more_than_refused(tmp_path, monkeypatch):
    """A few, in this process: nothing holds back one that takes all memory or time, or kills the process."""
    monkeypatch.syspath_prepend(ROOT / "tests/fuzz")
    fuzz = importlib.import_module("fuzz")
    refused = set()
    for name, kind in fuzz.KINDS.items():
        for folder in ("seeds", "here", "file"):
            (tmp_path / name / folder).mkdir(parents=True)
        seeds, path = kind.seeds(tmp_path / name / "seeds"), tmp_path / name / f"file/x{kind.suffix}"
        monkeypatch.chdir(tmp_path / name / "here")
        for number in range(4):
            path.write_bytes(fuzz.input_of(name, seeds, number, 1))
            try:
                kind.read(path)
            except InputError as error:
                assert "\n" not in str(error).strip(), name
                refused.add(name)
    assert len(refused) >= 14  # it is not that nothing was mutated
    assert not list(tmp_path.rglob("canary"))  # no code was run


@pytest.mark.slow
@pytest.mark.parametrize(("number", "seed"), [(12, 1), (400, 2)])
def test_no_file_does_more_harm_either(number, seed):
    """In a process of its own, which has no threads yet when it forks."""
    command = [sys.executable, "tests/fuzz/fuzz.py", str(number), "--seed", str(seed)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.count("'refused'") >= 14  # it is not that nothing was mutated

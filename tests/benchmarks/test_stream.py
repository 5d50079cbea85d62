"""The measurements of streams, starts and memory as a user runs them, small."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest

from ovdet.benchmarks import memory
from ovdet.errors import InputError

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_rows(run_tool, tmp_path):
    output = tmp_path / "rows.json"
    words = ("--photos", 3, "--rounds", 1, "--batch-size", 1, 2, "--device", "cpu", "--output", output)
    code, out, err = run_tool("benchmark.py", "stream", *words)
    assert code == 0, out + err
    rows = json.loads(output.read_text())
    assert [row["case"].partition(":")[0] for row in rows] == ["3 photos, batches of 1", "3 photos, batches of 2"]
    assert rows[0]["case"].startswith(f"3 photos, batches of 1: {3 / rows[0]['ours_s']:.3g} photos/s of ")
    assert all(row["peer"] == "one by one" and row["of_limit"] > 0 for row in rows)


@pytest.mark.slow
def test_extraction(run_tool, tmp_path):
    words = ("--photos", 2, "--regions", 3, "--rounds", 1, "--device", "cpu", "--output", tmp_path / "rows.json")
    code, out, err = run_tool("benchmark.py", "extraction", *words)
    assert code == 0, out + err
    (row,) = json.loads((tmp_path / "rows.json").read_text())
    assert row["case"].startswith("2 photos, 3 regions each: ") and row["limit_s"] > 0
    code, _, err = run_tool("benchmark.py", "extraction", "--photos", 0)
    assert code == 2 and "at least 1, got 0 and 32" in err


@pytest.mark.slow
def test_starts(run_tool, tmp_path):
    code, out, err = run_tool("benchmark.py", "start", "--rounds", 1, "--output", tmp_path / "rows.json")
    assert code == 0, out + err
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [row["case"].partition(",")[0] for row in rows] == ["help", "import ovdet", "first box"]
    assert rows[1]["ours_s"] < rows[2]["ours_s"]


@pytest.mark.slow
def test_peaks():
    sizes = ("--photos", "2", "--megapixels", "2", "--names", "20000", "--images", "5")
    done = subprocess.run([sys.executable, ROOT / "tools/peak_memory.py", *sizes], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    cases = ("one ordinary photo", "2 photos of 12", "2 megapixels", "20,000 names", "LVIS's figures of 5 images")
    assert all(case in done.stdout for case in cases)


@pytest.mark.slow
def test_a_peak_is_of_the_job_alone(tmp_path):
    """Neither what this process holds counts, nor what wrote the job's files."""
    held = b"x" * 2**29
    assert 2**29 < memory.own_peak() * 2**20
    took = memory.run_apart("print(len(b'x' * 2**28), memory.own_peak())", tmp_path, "a job").split()
    assert 2**28 < float(took[1]) * 2**20 < 2**29, len(held)
    with pytest.raises(InputError, match="a job to be done, its process ended with 3"):
        memory.run_apart("raise SystemExit(3)", tmp_path, "a job")


def test_peaks_are_told_as_they_come(monkeypatch, capsys):
    monkeypatch.setattr(memory, "peak", lambda name, sizes, folder: 1500.0 if name == "start" else 1600.0)
    arguments = argparse.Namespace(cases=["start", "names"], photos=1, megapixels=1, names=2**20, images=1)
    assert memory.run(arguments) == [
        memory.Peak("one ordinary photo", 1500.0, 1300),
        memory.Peak("1,048,576 names from a file in half precision", 1600.0, 1300 + 300 + 1000),
    ]
    assert capsys.readouterr().err.splitlines()[1] == "1,048,576 names from a file in half precision: 1,600 MiB"


def test_an_unknown_job(run_tool):
    code, _, err = run_tool("peak_memory.py", "everything")
    assert code == 2 and "start, folder, photo, names, lvis, got 'everything'" in err

"""The measurements of streams, starts and memory as a user runs them, small."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_rows(run_tool, tmp_path):
    output = tmp_path / "rows.json"
    words = ("--photos", 3, "--rounds", 1, "--batch-size", 1, 2, "--device", "cpu", "--output", output)
    code, out, err = run_tool("benchmark.py", "stream", *words)
    assert code == 0, out + err
    rows = json.loads(output.read_text())
    assert [row["case"] for row in rows] == ["3 photos, batches of 1", "3 photos, batches of 2"]
    assert all(row["peer"] == "one by one" and row["of_limit"] > 0 for row in rows)


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
    assert all(f"{case} " in done.stdout for case in ("start", "folder", "photo", "names", "lvis"))


def test_an_unknown_job(run_tool):
    code, _, err = run_tool("peak_memory.py", "everything")
    assert code == 2 and "start, folder, photo, names, lvis, got 'everything'" in err

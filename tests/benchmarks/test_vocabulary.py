"""The benchmark of vocabularies as a user runs it, small."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from ovdet.benchmarks.vocabulary import map_random_rows, peak_memory


@pytest.mark.slow
@pytest.mark.parametrize("half", [pytest.param((), marks=pytest.mark.slow), ("--half",)])
def test_rows_and_picture(run_tool, tmp_path, half):
    files = ("--output", tmp_path / "rows.json", "--picture", tmp_path / "cost.png")
    sizes = ("--regions", 20, "--largest", 1203, "--rounds", 1)
    code, out, err = run_tool("benchmark.py", "vocabulary", *sizes, *files, *half)
    assert code == 0, out + err
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [int(row["case"].split()[0]) for row in rows] == [1, 1, 80, 80, 1203, 1203]
    assert all(row["limit_s"] > 0 and row["speedup"] > 0 for row in rows)
    assert Image.open(tmp_path / "cost.png").size == (880, 605)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc")
def test_peak_memory_counts_what_is_gone_again_and_no_mapped_files(tmp_path):
    size = 80_000
    matrix = map_random_rows(tmp_path / "rows", size, torch.float32)  # 156 MiB
    assert torch.allclose(matrix[::9999].norm(dim=1), torch.ones(9))
    assert peak_memory(lambda: matrix.sum()) < 2**24
    assert 150 * 2**20 < peak_memory(lambda: matrix.clone().sum()) < 300 * 2**20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--largest", 0), "at least 1, got 300, 0"),
        (("--largest", 1, "--device", "cuda:99"), "got 'cuda:99'"),
        (("--picture", "/proc/nowhere/cost.png", "--largest", 1, "--rounds", 1), "expected a place to write to"),
    ],
)
def test_bad_input(run_tool, arguments, message):
    code, _, err = run_tool("benchmark.py", "vocabulary", *arguments)
    assert code == 2 and message in err and err.count("\n") == 1

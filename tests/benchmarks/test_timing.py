"""The arithmetic of a benchmark, with contenders whose cost is known."""

import json
import os
import time
from pathlib import Path

import pytest
import torch

from ovdet.benchmarks import timing
from ovdet.benchmarks.timing import Row, compare, print_rows, time_in_turns, write_rows
from ovdet.errors import InputError


def test_each_contender_runs_once_to_warm_up_and_once_a_round_in_turns():
    calls = []
    seconds = time_in_turns({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3)
    assert calls == ["a", "b"] * 4
    assert [len(values) for values in seconds.values()] == [3, 3]


@pytest.mark.parametrize(
    ("busy_for", "expected"), [(0.0, 0.05), (0.035, 0.09), (9.0, 1.0)], ids=["at rest", "spinning", "for ever"]
)
def test_a_contender_begins_when_the_threads_of_the_last_are_at_rest(monkeypatch, busy_for, expected):
    slept = []
    monkeypatch.setattr(timing.time, "sleep", slept.append)
    monkeypatch.setattr(timing.time, "monotonic", lambda: sum(slept))
    monkeypatch.setattr(timing.time, "process_time", lambda: min(sum(slept), busy_for))
    timing.wait_for_rest(most=1.0)
    assert sum(slept) == pytest.approx(expected, abs=0.011)


@pytest.mark.slow
def test_ratios():
    row = compare(
        "sleeping", lambda: time.sleep(0.02), peer=("slow", lambda: time.sleep(0.06)), limit=lambda: time.sleep(0.01)
    )
    assert 2 < row.speedup < 4 and 0.3 < row.of_limit < 0.7
    assert Row("alone", 1.0).speedup is None and Row("alone", 1.0).of_limit is None


def test_rows_are_written_and_shown(tmp_path, capsys):
    rows = [Row("case", 0.5, "peer", 2.0, 0.25, "cpu"), Row("alone", 3.0)]
    write_rows(rows, tmp_path / "rows.json")
    written = json.loads((tmp_path / "rows.json").read_text())
    assert written[0] == {
        "case": "case", "ours_s": 0.5, "peer": "peer", "peer_s": 2.0, "limit_s": 0.25, "device": "cpu",
        "spread": 0.0, "speedup": 4.0, "of_limit": 0.5,
    }  # fmt: skip
    assert written[1]["speedup"] is None
    print_rows(rows)
    assert "case" in capsys.readouterr().out
    with pytest.raises(InputError):
        write_rows(rows, "/proc/nowhere/rows.json")


def test_the_name_of_a_device(monkeypatch):
    """A GPU's own; a processor's where the system tells it, else its kind."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    assert timing.describe_device("cuda:1") == "a GPU"
    timing.wait_for("cuda:1")
    timing.wait_for("cpu")
    assert waited == ["cuda:1"]
    monkeypatch.setattr(timing, "Path", lambda name: Path(os.devnull, "cpuinfo"))
    monkeypatch.setattr(timing.platform, "processor", lambda: "")
    monkeypatch.setattr(timing.platform, "machine", lambda: "riscv64")
    assert timing.describe_device() == f"riscv64, {torch.get_num_threads()} threads"

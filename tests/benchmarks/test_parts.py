"""Parts of a step whose cost is known."""

import json
import time
from types import SimpleNamespace

import pytest

from ovdet.benchmarks.profile import time_parts


class Step:
    """Sleeps in a method, in an attribute of an attribute, and outside of both."""

    def __init__(self) -> None:
        self.model = SimpleNamespace(source=lambda: time.sleep(0.02), nothing=None)

    def __call__(self) -> None:
        self.model.source()
        self.update(0.01)
        time.sleep(0.01)

    def update(self, seconds: float) -> None:
        time.sleep(seconds)


def test_parts_add_up(tmp_path):
    step = Step()
    before = step.model.source
    parts = {"source": "model.source", "update": "update"}
    parts.update(absent="model.absent", null="model.nothing", deep="model.nothing.forward")
    rows = time_parts(step, parts, rounds=3, device="cpu", trace=str(tmp_path / "trace.json"))
    assert [row.case.partition(",")[0] for row in rows] == ["of it source", "of it update", "of it the rest"]
    slept = [0.02, 0.01, 0.01]  # a loaded machine wakes later, never sooner
    assert all(0.9 * least < row.ours_s < 4 * least for row, least in zip(rows, slept, strict=True))
    assert sum(int(row.case.split()[-1].rstrip("%")) for row in rows) == pytest.approx(100, abs=2)
    assert step.model.source is before and "update" not in vars(step)
    assert [file.name for file in tmp_path.iterdir()] == ["trace.json"]
    recorded = {event.get("name") for event in json.loads((tmp_path / "trace.json").read_text())["traceEvents"]}
    assert {"source", "update", "the whole step"} <= recorded

"""The jobs whose peak memory is measured: what they read and do, with a stand-in of the detector."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import resource
import sys
from pathlib import Path

import pytest
from PIL import Image

from ovdet.benchmarks import memory
from ovdet.errors import InputError
from ovdet.inference.predictor import OpenVocabPredictor
from ovdet.text.embeddings import TextEmbeddings, load_embeddings

SMALL = memory.Sizes(photos=3, megapixels=1, names=12, images=2)


@pytest.fixture
def asked(monkeypatch):
    """What a stand-in of the detector is asked for: sizes of photos, and names."""
    asked = []

    class Detector:
        def __call__(self, photo, names, **options):
            asked.append((Image.open(photo).size, names))

        def stream(self, photos, names):
            for photo in photos:
                yield self(photo, names)

    def load(name, *, device):
        assert (name, device) == ("ovdet-lite", "cpu")
        return Detector()

    monkeypatch.setattr(OpenVocabPredictor, "from_pretrained", load)
    return asked


def do(case: str, folder: Path) -> None:
    memory.write_inputs(case, SMALL, folder)
    memory.CASES[case].work(SMALL, folder)


def test_photos_are_as_large_as_said(asked, tmp_path):
    for case in ("start", "photo"):
        do(case, tmp_path)
    assert asked == [((1154, 866), ["person", "dog"])] * 2
    assert abs(1154 * 866 / 1e6 - 1) < 0.01
    (tmp_path / "large.jpg").unlink()  # is looked at under this name
    asked.clear()
    do("folder", tmp_path)
    assert asked == [((4000, 3000), ["person", "dog"])] * 3


def test_names_come_from_a_file_in_half_precision(asked, tmp_path):
    do("names", tmp_path)
    ((size, names),) = asked
    assert size[0] > 0 and isinstance(names, TextEmbeddings) and names.matrix.shape == (12, 384)
    again = load_embeddings(tmp_path / "names.safetensors")
    assert again.matrix.element_size() == 2 and again.names[-1] == "name 11"


def test_figures_of_lvis(tmp_path):
    do("lvis", tmp_path)
    written = json.loads((tmp_path / "lvis.json").read_text())
    assert len(written["images"]) == 2 and len(written["categories"]) == 1203
    assert {each["frequency"] for each in written["categories"]} == set("rcf")
    figures = json.loads((tmp_path / "out/metrics.json").read_text())
    assert len(json.loads((tmp_path / "out/detections.json").read_text())) == 2 * 300
    assert (figures["dataset"], figures["vocabulary"], figures["images"]) == ("lvis", 1203, 2)


def test_a_job_without_files_needs_none(tmp_path):
    memory.write_inputs("start", SMALL, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_is_said_to_the_processes(monkeypatch, tmp_path):
    """Both statements run here, as they would there: first what writes the files, then the job."""
    done = []

    def work(sizes, folder):
        done.append(("work", sizes, folder))

    def run_here(statement, folder, name):
        monkeypatch.chdir(folder)
        with contextlib.redirect_stdout(io.StringIO()) as said:
            print("something else that a job prints")
            exec(statement, {"memory": memory, "Path": Path})
        return said.getvalue()

    monkeypatch.setattr(memory, "run_apart", run_here)
    monkeypatch.setattr(memory, "write_inputs", lambda *given: done.append(given))
    monkeypatch.setitem(memory.CASES, "start", memory.Case("a job", work, lambda sizes: 1))
    monkeypatch.setattr(memory, "own_peak", lambda: 123.5)
    assert memory.peak("start", SMALL, tmp_path) == 123.5
    assert done == [("start", SMALL, tmp_path), ("work", SMALL, tmp_path)]


def test_sizes_below_one():
    arguments = argparse.Namespace(cases=[], photos=1, megapixels=0, names=1, images=1)
    with pytest.raises(InputError, match="expected numbers of at least 1"):
        memory.run(arguments)


def test_limits_grow_with_the_sizes():
    def limit(case, **sizes):
        return memory.CASES[case].limit(memory.Sizes(**sizes))

    assert limit("photo", megapixels=200) - limit("photo", megapixels=100) == pytest.approx(906, abs=1)
    assert limit("names", names=2 * 2**20) - limit("names", names=2**20) == 1000
    assert limit("folder", photos=10) == limit("folder", photos=1000), "a stream keeps no photos"


@pytest.mark.parametrize(("system", "unit"), [("linux", 2**10), ("darwin", 1)])
def test_a_system_without_proc(monkeypatch, system, unit):
    """Its own counter is asked, which is in bytes on macOS."""
    monkeypatch.setattr(memory, "Path", lambda name: Path(os.devnull, "status"))
    monkeypatch.setattr(sys, "platform", system)
    expected = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
    assert memory.own_peak() == pytest.approx(expected, rel=0.05)

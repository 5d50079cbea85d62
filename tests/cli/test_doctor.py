"""What the doctor says of this environment, and of one that lacks something."""

import json
import subprocess
import sys
import venv
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch

from ovdet.cli import diagnosis
from ovdet.inference.predictor import OpenVocabPredictor

ROOT = Path(__file__).parents[2]


@pytest.fixture
def quick(monkeypatch):
    """Nothing is loaded or run."""
    monkeypatch.setattr(diagnosis, "seconds_per_photo", lambda: 0.125)
    monkeypatch.setattr(diagnosis, "import_error", lambda: None)
    monkeypatch.setattr(diagnosis, "_pip_check", lambda: [])
    monkeypatch.setattr(
        diagnosis, "requires", lambda name: ["torch<3,>=2.6", "ray>=2; extra == 'ray'", "ruff; extra == 'dev'"]
    )


def test_all_is_here(ovdet, quick, monkeypatch):
    monkeypatch.setattr(diagnosis, "version", lambda name: "1.2")
    code, out, _ = ovdet("doctor", "--json")
    found = json.loads(out)
    assert code == 0 and found["problems"] == found["notes"] == []
    assert found["versions"]["torch"] == found["versions"]["ray"] == "1.2" and "ruff" not in found["versions"]
    assert found["seconds_per_photo"] == 0.125 and found["device"].startswith(("cpu", "cuda"))
    code, out, _ = ovdet("doctor")
    assert code == 0 and "0.125 s" in out and out.endswith("all that ovdet needs is here\n")


def test_what_is_missing_is_said_with_what_to_do(ovdet, quick, monkeypatch):
    def version(name):
        if name in ("torch", "ray"):
            raise PackageNotFoundError(name)
        return "1.2"

    monkeypatch.setattr(diagnosis, "version", version)
    monkeypatch.setattr(diagnosis, "import_error", lambda: "No module named 'detectron2'")
    monkeypatch.setattr(diagnosis, "detectron2_file", lambda: None)
    code, out, _ = ovdet("doctor", "--json")
    found = json.loads(out)
    assert code == 1 and found["seconds_per_photo"] is None
    assert "torch is not installed" in found["problems"][0] and "ovdet doctor --fix" in found["problems"][1]
    (note,) = found["notes"]
    assert "ray" in note and "pip install 'ovdet[ray]'" in note


def test_a_bare_system(ovdet, quick, monkeypatch):
    lacking = "ImportError: libGL.so.1: cannot open shared object file: No such file or directory"
    monkeypatch.setattr(diagnosis, "version", lambda name: "1.2")
    monkeypatch.setattr(diagnosis, "import_error", lambda: lacking)
    code, out, _ = ovdet("doctor", "--json")
    (problem,) = json.loads(out)["problems"]
    assert code == 1 and "libGL.so.1" in problem and "apt-get install libgl1" in problem


def test_a_detector_that_does_not_run(ovdet, quick, monkeypatch):
    monkeypatch.setattr(diagnosis, "version", lambda name: "1.2")
    monkeypatch.setattr(diagnosis, "seconds_per_photo", lambda: 1 / 0)
    code, out, _ = ovdet("doctor")
    assert code == 1 and "problem: the detector does not run: ZeroDivisionError" in out


def test_an_empty_environment_gets_an_answer(tmp_path):
    """Nothing but the standard library: no traceback."""
    venv.create(tmp_path / "bare", with_pip=False)
    command = [tmp_path / "bare/bin/python", "-m", "ovdet", "doctor", "--json"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert run.returncode == 1, run.stderr
    assert any("detectron2" in problem for problem in json.loads(run.stdout)["problems"])
    run = subprocess.run([*command, "--fix"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert run.returncode == 2 and "could not install sal-detectron2" in run.stderr and "Traceback" not in run.stderr


def test_an_environment_that_was_not_installed(ovdet, quick, monkeypatch):
    """A checkout: no list of what is needed, and no complaint."""

    def nothing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(diagnosis, "requires", nothing)
    code, out, _ = ovdet("doctor", "--json")
    found = json.loads(out)
    assert code == 0 and set(found["versions"]) == {"ovdet", "python", "detectron2"} and not found["problems"]


@pytest.mark.parametrize(("code", "expected"), [(1, ["ovdet 1.0 requires torch, which is not installed."]), (0, [])])
def test_what_pip_says_of_others_is_not_told(monkeypatch, code, expected):
    lines = (
        "ovdet 1.0 requires torch, which is not installed.\nother 2.0 has requirement numpy<2.\novdetails 1.0 is odd.\n"
    )
    done = subprocess.CompletedProcess([], code, stdout=lines, stderr="")
    monkeypatch.setattr(diagnosis.subprocess, "run", lambda command, **options: done)
    assert diagnosis._pip_check()[: len(expected)] == expected and len(diagnosis._pip_check()) == len(expected)


def test_the_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert diagnosis._device() == f"cpu: {torch.get_num_threads()} threads"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    assert diagnosis._device() == "cuda: a GPU"
    monkeypatch.setitem(sys.modules, "torch", None)
    assert diagnosis._device() is None


def test_the_fastest_photo_counts(monkeypatch):
    """The first one is not timed."""
    clock, took = [0.0], iter([100.0, 3.0, 1.0, 2.0])

    class Predictor:
        names = ()

        def set_vocabulary(self, names):
            self.names = names

        def __call__(self, photo):
            assert len(self.names) == 5 and photo.shape == (480, 640, 3)
            clock[0] += next(took)

    monkeypatch.setattr(OpenVocabPredictor, "from_pretrained", lambda name: Predictor())
    monkeypatch.setattr(diagnosis.time, "perf_counter", lambda: clock[0])
    assert diagnosis.seconds_per_photo(rounds=3) == 1.0

"""The runs of the timings with a small detector, or with what takes long left out: rows, peers and refusals."""

from __future__ import annotations

import argparse
import subprocess
import sys

import pytest
import torch
from detectron2.model_zoo import get_config
from PIL import Image
from streaming import Streaming
from torch import nn

from ovdet.benchmarks import detectors, extraction, inference, published, start, stream
from ovdet.errors import InputError
from ovdet.hub.find import ModelFiles
from ovdet.inference.predictor import OpenVocabPredictor


def arguments(module, *words, rounds=1):
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    parsed = parser.parse_args([str(word) for word in words])
    parsed.rounds = rounds
    return parsed


class Predictor(Streaming):
    """Stands for a detector: keeps the sizes of the batches that its network gets."""

    def __init__(self):
        self.batches, self.classes, self.names = [], None, ()
        self.model = nn.Linear(1, 1)
        self.model.forward = lambda batch, classes: self.batches.append([tuple(each["image"].shape) for each in batch])

    def set_vocabulary(self, names):
        self.names = names

    def prepare(self, file):
        width, height = Image.open(file).size
        return {"image": torch.zeros(3, height // 10, width // 10)}

    def __call__(self, file):
        return None


def test_stream(monkeypatch):
    """Batches of two are of photos of like sizes, which is the least that the network can take."""
    predictor, asked = Predictor(), []
    monkeypatch.setattr(OpenVocabPredictor, "from_pretrained", lambda *given, **more: asked.append(given) or predictor)
    rows = stream.run(arguments(stream, "--photos", 3, "--batch-size", 1, 2, "--model", "another"))
    assert asked == [("another",)] and predictor.names == stream.NAMES
    for size, row in zip((1, 2), rows, strict=True):
        assert row.case.startswith(f"3 photos, batches of {size}: {3 / row.ours_s:.3g} photos/s")
        assert row.peer == "one by one" and row.peer_s > 0 and row.limit_s > 0
    assert [len(batch) for batch in predictor.batches[:3]] == [1, 1, 1]
    assert predictor.batches[-2:] == [[(3, 42, 64), (3, 48, 64)], [(3, 64, 48)]]


def test_drawn_photos(tmp_path):
    assert stream.draw_photos(tmp_path, 4) == tmp_path
    files = sorted(tmp_path.iterdir())
    assert [Image.open(file).size for file in files] == [(640, 480), (480, 640), (640, 427), (640, 480)]
    assert len({file.read_bytes() for file in files}) == 4


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("stream", ("--photos", 0), "expected --photos of at least 1, got 0"),
        ("stream", ("--photos", 1, "--images", "/nowhere"), "/nowhere"),
        ("extraction", ("--photos", 0), "at least 1, got 0 and 32"),
        ("extraction", ("--regions", 0), "at least 1, got 4 and 0"),
    ],
)
def test_bad_input(run_tool, name, words, message):
    code, out, err = run_tool("benchmark.py", name, *words)
    assert code == 2 and message in err and err.count("\n") == 1 and not out


@pytest.mark.slow
def test_extraction(tiny_files, monkeypatch):
    """One row: the photos a second of the whole, beside the networks alone."""
    _, config, _, weights = tiny_files.arguments
    monkeypatch.setattr(extraction, "find_model", lambda name: ModelFiles(config, weights))
    read = extraction.open_config
    monkeypatch.setattr(extraction, "open_config", lambda file, more: read(file, [*tiny_files.overrides, *more]))
    words = ("--photos", 1, "--regions", 1, "--teacher", "conse:lite0", "--device", "cpu")
    (row,) = extraction.run(arguments(extraction, *words))
    assert row.case.startswith(f"1 photos, 1 regions each: {1 / row.ours_s:.3g} photos/s") and row.peer == ""
    assert 0 < row.limit_s and row.speedup is None


def test_starts_are_of_their_own_processes(monkeypatch):
    """The fastest of the rounds counts; the peer of all is the bare import."""
    called = []
    monkeypatch.setattr(start.subprocess, "run", lambda command, **options: called.append((command, options)))
    seconds = {"bare": [9.0, 4.0], "help": [0.5, 0.6], "import ovdet": [0.1, 0.2], "first box": [6.0, 5.0]}

    def turns(starts, *, rounds):
        assert rounds == 2 and list(starts) == list(seconds)
        for work in starts.values():
            work()
        return seconds

    monkeypatch.setattr(start, "time_in_turns", turns)
    rows = start.run(arguments(start, rounds=2))
    cases = ["help, at most 0.2 times", "import ovdet, at most 0.05 times", "first box, at most 1.3 times"]
    assert [row.case for row in rows] == cases and [row.ours_s for row in rows] == [0.5, 0.1, 5.0]
    assert {(row.peer, row.peer_s) for row in rows} == {("import torch, torchvision", 4.0)}
    assert all(command[0] == sys.executable and options["check"] for command, options in called)
    assert called[1][0][1:] == ["-m", "ovdet", "--help"] and called[3][0][-1].endswith(".jpg")


def test_a_start_that_fails_is_no_time():
    with pytest.raises(subprocess.CalledProcessError):
        start._run(("-c", "raise SystemExit(3)"))


@pytest.fixture
def once(monkeypatch):
    """Each contender runs once; `once` are the names, in turn, and all took their place's number of seconds."""
    names = []

    def turns(contenders, *, rounds, device):
        for work in contenders.values():
            work()
        names.extend(contenders)
        return {name: [float(names.index(name) + 1)] * rounds for name in contenders}

    monkeypatch.setattr(detectors, "time_in_turns", turns)
    return names


@pytest.fixture
def small(monkeypatch):
    """ovdet-lite looks at photos as they are, 64 x 96; detectron2's and it share their layers."""
    monkeypatch.setattr(detectors, "SIZE", (64, 96))
    load = OpenVocabPredictor.from_pretrained

    def load_small(name, *, half=False, **options):
        if half:  # most processors take long for it
            return argparse.Namespace(model=lambda *given, **options: None)
        predictor = load(name, **options)
        predictor.prepare = lambda photo, order="RGB": {"image": photo, "height": 64, "width": 96}
        return predictor

    monkeypatch.setattr(OpenVocabPredictor, "from_pretrained", load_small)


@pytest.mark.slow
def test_detectors(once, small, monkeypatch):
    """Each contender runs, and rows have the seconds of the right ones; of what is slow or not here stand-ins run."""
    ran = []

    def stand_in(name):
        return lambda *given, **options: ran.append(name)

    def load(*given, runtime, half):
        return argparse.Namespace(model=stand_in(f"{runtime}{' half' * half}"))

    for name in ("yolox", "owl"):
        monkeypatch.setattr(detectors, name, lambda *given, name=name: stand_in(name))
    build, counts, built = detectors._faster_rcnn, [], []

    def build_once(ours, count, device):
        counts.append(count)
        built.extend([] if built else [build(ours, count, device)])
        return built[0]

    monkeypatch.setattr(detectors, "_faster_rcnn", build_once)
    monkeypatch.setattr(detectors, "load_predictor", load)
    monkeypatch.setattr(detectors, "half_type", lambda device: torch.bfloat16)
    rows = detectors.run(rounds=3, yolox_file="yolox.onnx", runtimes=("onnx", "openvino"))
    assert ran == ["onnx", "openvino", "openvino half", "yolox", "owl"] and counts == [80, 1203]
    assert built[0].roi_heads.num_classes == 80
    own = ["ours 80", "ours 1203", "limit", "whole call", "half", "onnx", "openvino", "openvino half"]
    assert once == [*own, "detectron2 80", "detectron2 1203", "torchvision", "YOLOX", "OWLv2"]
    took = {name: float(place) for place, name in enumerate(once, 1)}
    assert [(row.case.partition(", ")[2], row.ours_s, row.peer_s) for row in rows] == [
        ("80 names", took["ours 80"], took["detectron2 80"]),
        ("1203 names", took["ours 1203"], took["detectron2 1203"]),
        ("80 names", took["ours 80"], took["torchvision"]),
        ("80 names", took["ours 80"], took["OWLv2"]),
        ("80 names", took["ours 80"], took["YOLOX"]),
        ("80 names, resizing and filtering too", took["whole call"], took["ours 80"]),
        ("80 names, onnxruntime", took["onnx"], took["ours 80"]),
        ("80 names, OpenVINO", took["openvino"], took["ours 80"]),
        ("80 names, OpenVINO, bfloat16", took["openvino half"], took["ours 80"]),
        ("80 names, bfloat16", took["half"], took["ours 80"]),
        ("80 names, bfloat16", took["half"], took["YOLOX"]),
    ]
    assert [row.limit_s for row in rows[:3]] == [took["limit"], took["limit"], None]


@pytest.mark.slow
def test_a_row_for_each_number_of_names(monkeypatch):
    """And one with as many masks of the peer as are found."""
    timed = []

    def compare(case, ours, *, peer, limit, rounds, device):
        timed.append((case, peer[0], ours(), peer[1](), limit()))
        return case

    def narrow(name):
        config = get_config(name)
        config.model.roi_heads.box_head.fc_dims = [8]
        config.model.roi_heads.box_predictor.input_shape.channels = 8
        return config

    monkeypatch.setattr(published, "get_config", narrow)
    monkeypatch.setattr(published, "compare", compare)
    words = ("--size", 32, 64, "--classes", 3, "--backbone", "resnet18", "--device", "cpu")
    three, masks = published.run(arguments(published, *words))
    assert three == "Detic resnet18, photo of 32 x 64, 3 names, no mask"
    assert [peer for _, peer, *_ in timed] == ["Mask R-CNN R50-FPN of detectron2, 3 classes", "the same, as many masks"]
    (without,) = timed[0][2]
    assert not without["instances"].has("pred_masks") or not without["instances"].pred_masks.any()
    assert int(masks.split()[-2]) > 0 and masks.endswith(" masks")


def test_yolox_by_onnxruntime(tmp_path, monkeypatch):
    """Its network alone, once for each photo."""
    ran = []

    class Session:
        def __init__(self, file, providers):
            assert file.endswith("f.onnx") and providers == ["CPUExecutionProvider"]

        def get_inputs(self):
            return [argparse.Namespace(name="images", shape=[1, 3, 4, 6])]

        def run(self, outputs, given):
            ran.append(given["images"].shape)

    monkeypatch.setitem(sys.modules, "onnxruntime", argparse.Namespace(InferenceSession=Session))
    (tmp_path / "f.onnx").write_bytes(b"")
    inference.yolox(str(tmp_path / "f.onnx"), [{}, {}])()
    assert ran == [(1, 3, 4, 6)] * 2
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match="pip install onnxruntime"):
        inference.yolox(str(tmp_path / "f.onnx"), [{}])

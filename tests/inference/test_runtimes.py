"""Runtimes by name: a detector's file is exported once, and what an runtime cannot do is refused before any work."""

import importlib.util
from types import SimpleNamespace

import pytest

from ovdet.errors import InputError
from ovdet.export import runtimes
from ovdet.hub.find import find_model, open_config
from ovdet.inference import load
from ovdet.inference.load import load_predictor


@pytest.fixture
def exports(monkeypatch, tmp_path) -> list:
    """The files that were exported, none of them really."""
    files = []

    def export(config, weights, path, form):
        assert config.train.device == "cpu" and form is runtimes.FORMATS["onnx"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"a graph")
        files.append(path)

    monkeypatch.setattr(runtimes, "export_detector", export)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return files


def test_a_detector_is_exported_once(exports, tmp_path):
    config_file, weights = find_model("ovdet-lite")
    file = runtimes.exported_file(open_config(config_file), weights)
    assert runtimes.exported_file(open_config(config_file), weights) == file and exports == [file]
    assert file.is_relative_to(tmp_path / "cache/ovdet")
    other = runtimes.exported_file(open_config(config_file, ["model.roi_heads.image_temperature=0.2"]), weights)
    config_file, weights = find_model("ovdet-lite-base48")
    third = runtimes.exported_file(open_config(config_file), weights)
    assert len({file, other, third}) == 3 and exports == [file, other, third]


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_the_file_goes_to_the_runtime(exports, monkeypatch, runtime):
    opened = []
    monkeypatch.setattr(load, "load_onnx_predictor", lambda file, device: opened.append(("onnx", file, device)))
    monkeypatch.setattr(load, "load_openvino_predictor", lambda file, half: opened.append(("openvino", file, half)))
    load_predictor(None, None, None, runtime=runtime, half=None)
    load_predictor(None, None, str(exports[0]), runtime=runtime, half=None)
    assert opened == [(runtime, exports[0], None), (runtime, str(exports[0]), None)] and len(exports) == 1


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (dict(runtime="onnx", half=True), "--half with --runtime torch or openvino"),
        (dict(runtime="onnx", compile=True), "--compile with --runtime torch"),
        (dict(runtime="openvino", compile=True), "--compile with --runtime torch"),
        (dict(runtime="openvino", int8=True), "--int8 with --runtime torch"),
        (dict(runtime="openvino", device="cuda"), "the CPU with --runtime openvino, got 'cuda'"),
    ],
)
def test_what_an_engine_cannot_do(exports, asked, message):
    with pytest.raises(InputError, match=message):
        load_predictor(None, None, None, **asked)
    assert not exports


def test_an_engine_that_is_not_installed_is_named(exports, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="openvino to be installed"):
        load_predictor(None, None, None, runtime="openvino")


def test_weights_that_cannot_be_read(exports, tmp_path):
    config_file, _ = find_model("ovdet-lite")
    with pytest.raises(InputError, match="expected a checkpoint, got .*, which cannot be read"):
        runtimes.exported_file(open_config(config_file), str(tmp_path))
    assert not exports


def test_a_damaged_file_for_openvino(monkeypatch):
    """With a stand-in of the package, which says of a file that it cannot be read."""

    class Core:
        def read_model(self, path):
            raise RuntimeError("Check 'model' failed\nat frontend.cpp:1")

    monkeypatch.setattr(runtimes, "check_packages", lambda names: None)
    monkeypatch.setattr(runtimes.importlib, "import_module", lambda name: SimpleNamespace(Core=Core))
    with pytest.raises(InputError, match="expected an ONNX model, a.onnx does not load: .*failed") as caught:
        runtimes.OpenvinoSession("a.onnx")
    assert "\n" not in str(caught.value)

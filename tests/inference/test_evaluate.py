"""Novel figures of classes that the weights have seen are said to be none, before the photos are run."""

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ovdet.class_embeddings import ClassEmbeddings, LearnedRows
from ovdet.engine.config import load_config, prepare_dataset
from ovdet.errors import InputError
from ovdet.inference import evaluate as evaluate_only
from ovdet.inference.evaluate import evaluate_config, evaluate_on

ROOT = Path(__file__).parents[2]
BASE, NOVEL = ["red circle", "green square"], ["Blue_Circle", "yellow star"]


@pytest.fixture
def config(tiny_files, tmp_path, monkeypatch):
    """The tiny detector on a few drawn photos, which are not run."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(evaluate_only, "prepare_evaluation", lambda *_: None)  # no log of its own
    monkeypatch.setattr(evaluate_only, "do_test", lambda *_: {})
    overrides = [f"dataset.root={tmp_path}/data", "dataset.prepare.num_train=2", "dataset.prepare.num_val=4",
                 f"train.output_dir={tmp_path}/run", f"dataset.name={tmp_path.name}"]  # fmt: skip
    return load_config("configs/quick/vild.py", [*tiny_files.overrides, *overrides])


@pytest.fixture
def warnings_for(tiny_files, tmp_path, monkeypatch, caplog):
    """What an evaluation of weights with a header warns of."""
    monkeypatch.setattr(logging.getLogger("ovdet"), "propagate", True)  # a command run here before turns it off

    def warnings_for(evaluate, **header):
        content = torch.load(tiny_files.arguments[3], weights_only=True)
        content["ovdet"] = {"teacher": "conse", "width": 384, **header}
        torch.save(content, tmp_path / "weights.pth")
        caplog.clear()
        evaluate(str(tmp_path / "weights.pth"))
        return [record.getMessage() for record in caplog.records if record.name == evaluate_only.__name__]

    return warnings_for


def test_weights_that_know_novel_classes_of_a_configs_test_set(config, warnings_for):
    def evaluate(weights):
        evaluate_config(config, weights)

    (warning,) = warnings_for(evaluate, training_classes=BASE, known_classes=[*BASE, *NOVEL])
    assert "novel here: Blue_Circle, yellow star" in warning and "red circle" not in warning
    assert "yellow star" in warnings_for(evaluate, training_classes=NOVEL[1:])[0]
    assert warnings_for(evaluate, training_classes=BASE, known_classes=[*BASE, "kite"]) == []
    assert warnings_for(evaluate) == []


def test_weights_that_know_novel_classes_of_data_of_ones_own(config, warnings_for, tmp_path):
    prepare_dataset(config)
    data = tmp_path / "data"

    def evaluate(weights, split=data / "ov_split.json"):
        evaluate_on(
            config, data / "instances_val.json", data / "images", tmp_path / "out", weights=weights, split=split
        )

    known = {"training_classes": BASE, "known_classes": [*BASE, *NOVEL]}
    (warning,) = warnings_for(evaluate, **known)
    assert "novel here: Blue_Circle, yellow star" in warning
    assert warnings_for(lambda weights: evaluate(weights, split=None), **known) == []  # nothing is novel there


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"setting": "zero"}, "a setting out of .*, got 'zero'"),
        ({"setting": "constrained"}, "a split that says which classes are novel"),
        ({"max_detections": 0}, "at least 1 detection a photo, got 0"),
        ({"iou_types": ("bbox", "segm")}, "a detector with masks to score masks"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_before_the_photos(config, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        evaluate_on(config, "gone.json", "gone", tmp_path / "out", weights="gone.pth", **options)
    assert not (tmp_path / "out").exists()


def test_a_detector_does_not_find_masks_that_nobody_scores(config):
    config.model.roi_heads.mask_in_features = ["p4"]
    evaluate_only._score(config, "out", ("bbox", "segm"), None)
    assert config.model.roi_heads.mask_in_features == ["p4"]
    evaluate_only._score(config, "out", ("bbox",), 7)
    assert config.model.roi_heads.mask_in_features is None
    assert config.model.roi_heads.box_predictor.test_topk_per_image == config.dataloader.evaluator.max_detections == 7


@pytest.mark.parametrize(
    ("own", "wanted", "expected"), [(None, None, 300), (1000, None, 1000), (-1, None, -1), (None, 7, 7)]
)
def test_a_detector_finds_as_many_as_lvis_counts(config, own, wanted, expected):
    predictor = config.model.roi_heads.box_predictor
    predictor.update({} if own is None else {"test_topk_per_image": own})
    evaluate_only._score(config, "out", ("bbox",), wanted, least=300)
    assert predictor.test_topk_per_image == expected


def test_learned_classes_that_the_json_lacks(config, tiny_files, tmp_path, monkeypatch):
    prepare_dataset(config)
    data = tmp_path / "data"
    monkeypatch.setattr(evaluate_only, "detector_fingerprint", lambda model: "ab12")

    def evaluate(detector):
        rows = LearnedRows(torch.zeros(1, 32), torch.zeros(1), torch.zeros(1, dtype=torch.int64))
        parts = torch.zeros(0, 384), torch.zeros(0, dtype=torch.int64), ("unicorn",)
        learned = ClassEmbeddings(*parts, None, rows, None, detector)
        files = data / "instances_val.json", data / "images", tmp_path / "out"
        evaluate_on(config, *files, weights=tiny_files.arguments[3], learned=learned)

    with pytest.raises(InputError, match="expected learned classes that the json has, got 'unicorn'"):
        evaluate("ab12")
    with pytest.raises(InputError, match=r"that this detector learned, got another's \(cd34\)"):
        evaluate("cd34")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
@pytest.mark.parametrize("order", ["BGR", "RGB"])
def test_an_exported_file_takes_rgb(monkeypatch, runtime, order):
    """Whatever the detector's own order is."""
    seen, asked = [], []

    def load(file, **options):
        asked.append((file, options))
        return SimpleNamespace(model=lambda inputs, *, classes: seen.append(inputs[0]["image"][:, 0, 0]) or [classes])

    monkeypatch.setattr(evaluate_only, "exported_file", lambda config, weights: "file.onnx")
    monkeypatch.setattr(evaluate_only, "load_openvino_predictor", load)
    monkeypatch.setattr(evaluate_only, "load_onnx_predictor", load)
    model = SimpleNamespace(device=torch.device("cpu"), input_format=order)
    given = dict(compile=False, int8=False, half=runtime == "openvino")
    exported = evaluate_only._Exported({}, "weights", model, runtime, None, **given)
    image = torch.tensor([1, 2, 3])[:, None, None].expand(3, 2, 2)
    assert exported([{"image": image}], classes="classes") == ["classes"]
    assert seen[0].tolist() == ([3, 2, 1] if order == "BGR" else [1, 2, 3])
    assert asked == [("file.onnx", {"half": True} if runtime == "openvino" else {})]


def test_a_file_of_another_detector_is_refused(monkeypatch):
    monkeypatch.setattr(
        evaluate_only, "load_onnx_predictor", lambda file: SimpleNamespace(model=file, fingerprint="ab")
    )
    monkeypatch.setattr(evaluate_only, "detector_fingerprint", lambda model: model.fingerprint)
    given = dict(compile=False, half=False, int8=False)
    model = SimpleNamespace(device=torch.device("cpu"), input_format="RGB", fingerprint="ab")
    assert evaluate_only._Exported({}, "weights", model, "onnx", "mine.onnx", **given).detector == "mine.onnx"
    model.fingerprint = "cd"
    with pytest.raises(InputError, match="exported from this detector, mine.onnx is of another"):
        evaluate_only._Exported({}, "weights", model, "onnx", "mine.onnx", **given)


@pytest.mark.parametrize("more", [{"compile": True}, {"int8": True}, {"half": True}, {"device": "cuda"}])
def test_what_an_exported_file_cannot_do_is_refused(more):
    given = dict(compile=False, half=False, int8=False) | more
    model = SimpleNamespace(device=torch.device(given.pop("device", "cpu")), input_format="RGB")
    with pytest.raises(InputError, match="the CPU with --runtime, no --compile, no --int8"):
        evaluate_only._Exported({}, "weights", model, "onnx", None, **given)

"""Novel figures of classes that the weights have seen are said to be none, before the photos are run."""

import logging
from pathlib import Path

import pytest
import torch

from ovdet.engine.config import load_config, prepare_dataset
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

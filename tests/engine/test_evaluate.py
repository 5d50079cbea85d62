"""The loop over photos against detectron2's, names put in and back, the folder of an evaluation."""

import pytest
import torch
from detectron2.config import LazyConfig
from detectron2.data import MetadataCatalog, build_detection_test_loader
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset
from omegaconf import DictConfig
from torch import nn

from ovdet.engine.evaluate import prepare_evaluation, run_detector, vocabulary_of
from ovdet.errors import InputError


class Recorder(DatasetEvaluator):
    """Keeps what it is given."""

    def reset(self):
        self.seen = []

    def process(self, inputs, outputs):
        self.seen += list(zip(inputs, outputs, strict=True))

    def evaluate(self):
        return {"seen": self.seen}


class Doubler(nn.Module):
    """Outputs depend on its mode, and a gradient would show."""

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(2.0))

    def forward(self, inputs):
        assert not self.training and not torch.is_grad_enabled()
        return [float(self.factor) * entry for entry in inputs]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_loop_is_detectron2s(batch_size, capsys):
    def loader():
        return build_detection_test_loader(list(range(7)), mapper=float, batch_size=batch_size)

    model = Doubler().train()
    ours, theirs = run_detector(model, loader(), Recorder()), inference_on_dataset(model, loader(), Recorder())
    assert ours == theirs and len(ours["seen"]) == 7 and model.training
    assert "7/7" in capsys.readouterr().out  # photos, not batches


def test_an_evaluator_may_return_nothing():
    class Silent(Recorder):
        def evaluate(self):
            return None

    assert run_detector(Doubler(), build_detection_test_loader([1], mapper=float), Silent()) == {}


class Named:
    """Keeps what set_vocabulary was given."""

    def __init__(self, *class_names):
        self.class_names = class_names

    def set_vocabulary(self, names, embeddings, is_base):
        self.class_names, self.is_base = tuple(names), is_base


def test_names_are_put_back_even_after_an_error():
    MetadataCatalog.get("put_back_test").set(thing_classes=["b", "c"], base_classes=["b"])
    model = Named("a", "b")
    with pytest.raises(RuntimeError), vocabulary_of(model, "put_back_test", lambda names: None):
        assert model.class_names == ("b", "c") and model.is_base == [True, False]
        raise RuntimeError
    assert model.class_names == ("a", "b") and model.is_base == [True, True]


@pytest.mark.parametrize(
    ("base", "training_classes", "expected"),
    [
        (["cat"], ["dog", "fire truck"], [True, False, False]),  # the split's
        ([], ["Fire truck", "cow"], [False, False, True]),  # the checkpoint's, but for case and underscores
        ([], [], None),
    ],
)
def test_which_names_count_as_base(base, training_classes, expected):
    name = f"base_test_{len(base)}_{len(training_classes)}"
    MetadataCatalog.get(name).set(thing_classes=["cat", "dog", "fire_truck"], base_classes=base)
    model = Named()
    with vocabulary_of(model, name, lambda names: None, training_classes):
        assert model.is_base == expected


def test_the_folder_of_an_evaluation(tmp_path):
    prepare_evaluation(DictConfig({"a": {"b": 1}}), tmp_path / "run/evaluation")
    assert LazyConfig.load(str(tmp_path / "run/evaluation/config.yaml")) == {"a": {"b": 1}}
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="place to write to"):
        prepare_evaluation(DictConfig({}), tmp_path / "file/evaluation")

"""The loop over photos against detectron2's, which classes are asked for, the folder of an evaluation."""

import pytest
import torch
from detectron2.data import MetadataCatalog, build_detection_test_loader
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset
from torch import nn

from ovdet.engine.evaluate import classes_of, prepare_evaluation, run_detector
from ovdet.errors import InputError
from ovdet.text.embedder import NameEmbedder
from ovdet.text.vocabulary import Vocabulary


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

    def forward(self, inputs, classes=None):
        assert not self.training and not torch.is_grad_enabled()
        return [float(self.factor) * entry for entry in inputs]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_loop_is_detectron2s(batch_size, capsys):
    def loader():
        return build_detection_test_loader(list(range(7)), mapper=float, batch_size=batch_size)

    model = Doubler().train()
    ours, theirs = run_detector(model, loader(), Recorder(), None), inference_on_dataset(model, loader(), Recorder())
    assert ours == theirs and len(ours["seen"]) == 7 and model.training
    assert "7/7" in capsys.readouterr().err  # photos, not batches


def test_an_evaluator_may_return_nothing():
    class Silent(Recorder):
        def evaluate(self):
            return None

    assert run_detector(Doubler(), build_detection_test_loader([1], mapper=float), Silent(), None) == {}


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
    classes = classes_of(name, NameEmbedder("conse", width=384), training_classes)
    assert (classes.is_base if expected is None else classes.is_base.tolist()) == expected
    assert classes.names == ("cat", "dog", "fire_truck") and classes.class_ids.tolist() == [0, 1, 2]


def test_synonyms_and_negatives_of_a_data_set():
    MetadataCatalog.get("synonyms_test").set(thing_classes=["cat", "fire_truck"], base_classes=[])
    embed_names = NameEmbedder("conse", width=384)
    more = Vocabulary(("Fire Truck",), {"Fire Truck": ("fire engine",)})
    classes = classes_of("synonyms_test", embed_names, vocabulary=more, negatives=["dog"])
    assert classes.names == ("cat", "fire_truck") and classes.class_ids.tolist() == [0, 1, 1, -1]
    with pytest.raises(InputError, match="2 classes.*'zebra'"):
        classes_of("synonyms_test", embed_names, vocabulary=Vocabulary(("zebra",)))


def test_the_folder_of_an_evaluation(tmp_path):
    prepare_evaluation(tmp_path / "run/evaluation")
    assert (tmp_path / "run/evaluation/log.txt").is_file()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="place to write to"):
        prepare_evaluation(tmp_path / "file/evaluation")

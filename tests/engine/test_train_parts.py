"""Parts of a training that a whole run on a CPU does not show: precision, frozen parts, needs of objectives."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.engine import AMPTrainer, SimpleTrainer
from omegaconf import OmegaConf
from torch import nn

from ovdet.engine import train
from ovdet.engine.resume import InitialWeights
from ovdet.errors import InputError


class CaptionLoss:
    needs = frozenset({"captions"})


def config_with(**mapper):
    return OmegaConf.create({"dataloader": {"train": {"mapper": mapper}}})


def test_objectives_get_what_they_read():
    (need,) = CaptionLoss.needs
    option = train._OF_MAPPER[need]
    model = SimpleNamespace(roi_heads=SimpleNamespace(objectives=[CaptionLoss()]))
    train.check_needs(config_with(**{option: {"file": "captions.json"}}), model)
    train.check_needs(config_with(), SimpleNamespace(roi_heads=SimpleNamespace()))
    with pytest.raises(InputError) as caught:
        train.check_needs(config_with(**{option: None}), model)
    message = str(caught.value)
    assert f"dataloader.train.mapper.{option}" in message and "CaptionLoss, got none" in message


def known(model=None, before=(), **metadata):
    """The header's trained names of a run on a data set with three names, two of which have boxes."""
    counts = [{"id": index, "image_count": count} for index, count in enumerate((4, 0, 1))]
    name = f"known_{len(MetadataCatalog.list())}"
    MetadataCatalog.get(name).set(class_image_count=counts, **metadata)
    first = InitialWeights("", list(before), training_classes=before)
    return train._known_names(model, first, ["cat", "dog", "cow"], name)


def test_names_without_a_box_do_not_count_as_trained():
    """Unless a split says so, or a classifier of fixed classes has an output for them."""
    assert known() == {"training_classes": ["cat", "cow"], "known_classes": ["cat", "dog", "cow"]}
    assert known(before=("dog", "kite"))["training_classes"] == ["cat", "cow", "dog", "kite"]
    assert known(base_classes=["cat", "dog", "cow"])["training_classes"] == ["cat", "dog", "cow"]
    assert known(well_known=["cat"], base_classes=["cat", "dog", "cow"])["training_classes"] == ["cat"]
    closed = SimpleNamespace(training_classes=("cat", "dog", "cow"))
    assert known(closed, before=("kite",), well_known=["cat"])["training_classes"] == ["cat", "dog", "cow"]


def test_names_without_a_box_are_told(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("ovdet"), "propagate", True)  # a command run here before turns it off
    for number, counts, told in (
        (1, (4, 0, 1), "1 of the 3 names have no box"),
        (2, (4, 2, 1), ""),
        (3, (0, 0, 0), ""),
    ):
        metadata = MetadataCatalog.get(f"told_{number}")
        counts = [{"id": index, "image_count": count} for index, count in enumerate(counts)]
        metadata.set(thing_classes=["cat", "dog", "cow"], class_image_count=counts)
        caplog.clear()
        train._tell_without_boxes(metadata)
        assert told in caplog.text and bool(told) == ("dog" in caplog.text)


def test_something_is_left_to_train():
    model = nn.ModuleDict({"backbone": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    assert train.freeze_parts(model, "backbone") == [model["backbone"]]
    assert [name for name, each in model.named_parameters() if each.requires_grad] == ["head.weight", "head.bias"]
    with pytest.raises(InputError, match="train.freeze=backbone, head leaves nothing"):
        train.freeze_parts(model, "backbone, head")


@pytest.mark.parametrize(
    ("amp", "half", "kind"),
    [
        (True, torch.float16, AMPTrainer),  # which scales the loss
        (True, torch.bfloat16, SimpleTrainer),
        (True, None, SimpleTrainer),
        (False, torch.float16, SimpleTrainer),
    ],
)
def test_mixed_precision_by_what_a_device_computes_in(monkeypatch, amp, half, kind):
    monkeypatch.setattr(train, "half_type", lambda device: half)
    options = SimpleNamespace(amp=amp, torch_device=lambda: torch.device("cpu"))
    model = nn.Linear(2, 2)
    trainer = train.build_trainer(options, model, [], torch.optim.SGD(model.parameters(), lr=1.0))
    assert type(trainer) is kind
    assert isinstance(trainer.model, train.Autocast) == (amp and half is torch.bfloat16)


def test_a_drawn_seed_is_kept_by_a_resumed_run(monkeypatch):
    monkeypatch.setattr(train.comm, "shared_random_seed", lambda: 77)
    first = SimpleNamespace(seed=None)
    assert train._seed(SimpleNamespace(seed=5), first) == 5
    assert train._seed(SimpleNamespace(seed=-1), first) == 77
    assert train._seed(SimpleNamespace(seed=-1), SimpleNamespace(seed=3)) == 3

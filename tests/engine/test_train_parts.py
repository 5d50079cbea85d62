"""Parts of a training that a whole run on a CPU does not show: precision, frozen parts, needs of objectives."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from detectron2.engine import AMPTrainer, SimpleTrainer
from omegaconf import OmegaConf
from torch import nn

from ovdet.engine import train
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

"""Gradient clipping against torch's own, mixed precision, the choice of trainer."""

import copy
import os
import signal

import pytest
import torch
from detectron2.engine import HookBase, SimpleTrainer
from detectron2.utils.events import EventStorage
from torch import nn

from ovdet.engine.checkpoint import SafeCheckpointer
from ovdet.engine.hooks import (
    Autocast,
    FrozenStatistics,
    GradientClipping,
    KeepLastCheckpoints,
    SeededSteps,
    StopAtSigterm,
)
from ovdet.engine.options import TrainOptions
from ovdet.engine.train import build_trainer, freeze_parts
from ovdet.errors import InputError


class Toy(nn.Module):
    """A detector to the trainer: a batch in, a dict of losses out."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, batch):
        return {"loss_toy": self.linear(batch).float().square().sum()}


def test_clipping_equals_torchs():
    torch.manual_seed(0)
    model, batch = Toy(), torch.randn(8, 4)
    reference = copy.deepcopy(model)
    reference(batch)["loss_toy"].backward()
    nn.utils.clip_grad_norm_(reference.parameters(), 0.5)
    trainer = SimpleTrainer(model, [batch], torch.optim.SGD(model.parameters(), lr=0.0))
    trainer.register_hooks([GradientClipping(0.5)])
    with EventStorage(0) as trainer.storage:
        trainer.run_step()
    for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        assert torch.allclose(ours.grad, theirs.grad)


class Towers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.locked = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        self.learned = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))

    def forward(self, batch):
        return {"loss_toy": self.learned(self.locked(batch)).square().sum()}


def test_locked_parts_stay_as_they_are_and_nothing_else_does():
    """Parameters, and the statistics of batch norms."""
    torch.manual_seed(0)
    model = Towers()
    frozen, before = freeze_parts(model, "locked"), copy.deepcopy(model.state_dict())
    trainer = SimpleTrainer(model, [torch.randn(8, 4)] * 2, torch.optim.SGD(model.parameters(), lr=0.1))
    trainer.register_hooks([FrozenStatistics(frozen)])
    trainer.train(0, 2)
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    norm = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
    assert changed >= {"learned.0.weight"} | {f"learned.1.{key}" for key in norm - {"bias", "weight"}}
    assert not any(key.startswith("locked") for key in changed)


def test_mixed_precision_is_left_out_where_the_processor_emulates_it(monkeypatch, caplog):
    model = Toy()
    monkeypatch.setattr("ovdet.engine.train.half_type", lambda device: None)
    options = TrainOptions(amp=True, device="cpu")
    trainer = build_trainer(options, model, [0], torch.optim.SGD(model.parameters(), lr=0.1))
    assert trainer.model is model and "float32" in caplog.text


def test_mixed_precision_trains_on_a_cpu(monkeypatch):
    monkeypatch.setattr("ovdet.engine.train.half_type", lambda device: torch.bfloat16)
    model = Toy()
    options = TrainOptions(amp=True, device="cpu")
    trainer = build_trainer(options, model, [torch.randn(2, 4)], torch.optim.SGD(model.parameters(), lr=0.1))
    assert isinstance(trainer.model, Autocast)
    before = model.linear.weight.clone()
    with EventStorage(0) as trainer.storage:
        trainer.run_step()
    assert model.linear.weight.dtype == torch.float32 and not torch.equal(model.linear.weight, before)
    plain = build_trainer(TrainOptions(device="cpu"), model, [0], torch.optim.SGD(model.parameters(), lr=0.1))
    assert plain.model is model


@pytest.mark.parametrize(
    ("option", "value"),
    [("amp", "maybe"), ("max_iter", 1.5), ("clip_gradient_norm", "abc"), ("output_dir", None), ("seed", "x")],
)
def test_options_of_another_kind_are_refused(option, value):
    with pytest.raises(InputError, match=f"train.{option}"):
        TrainOptions(**{option: value})


def test_checkpoints_before_and_after_a_resume_are_counted_together(tmp_path):
    """Those of another run in the same folder, at later steps, are none of them."""

    def train(start: int, end: int, kept: int = 2) -> list[str]:
        model = Toy()
        trainer = SimpleTrainer(model, [torch.randn(2, 4)] * (end - start), torch.optim.SGD(model.parameters(), lr=0.1))
        checkpointer = SafeCheckpointer(model, str(tmp_path), trainer=trainer)
        trainer.register_hooks([KeepLastCheckpoints(checkpointer, 1, end, kept)])
        trainer.train(start, end)
        return sorted(file.name for file in tmp_path.glob("model_0*.pth"))

    assert train(0, 4) == ["model_0000002.pth", "model_0000003.pth"]
    (tmp_path / "model_0000009.pth").touch()
    assert train(4, 5) == ["model_0000003.pth", "model_0000004.pth", "model_0000009.pth"]
    assert train(5, 8, kept=3)[0] == "model_0000005.pth"
    assert train(5, 8) == ["model_0000006.pth", "model_0000007.pth", "model_0000009.pth"]
    (tmp_path / "model_0000005.pth").touch()  # of before, when more were kept
    (tmp_path / "model_0000004.pth").touch()
    assert train(8, 9) == ["model_0000007.pth", "model_0000008.pth", "model_0000009.pth"]
    assert (tmp_path / "model_final.pth").is_file() and (tmp_path / "last_checkpoint").read_text() == "model_final.pth"


class Drawing(Toy):
    """Notes a random number a step, and does something in one of them."""

    def __init__(self, act=None) -> None:
        super().__init__()
        self.drawn, self.act = [], act or {}

    def forward(self, batch):
        self.drawn.append(float(torch.rand(())))
        self.act.get(len(self.drawn), lambda: None)()
        return super().forward(batch)


def draw(start: int, *, seed: int = 3, act=None, hooks=()) -> Drawing:
    model = Drawing(act)
    trainer = SimpleTrainer(model, [torch.ones(2, 4)] * 9, torch.optim.SGD(model.parameters(), lr=0.0))
    trainer.register_hooks([SeededSteps(seed), *hooks])
    trainer.train(start, 6)
    return model


def test_a_step_s_random_numbers_are_its_own():
    whole = draw(0).drawn
    assert len(set(whole)) == 6 and draw(4).drawn == whole[4:] and not set(draw(0, seed=4).drawn) & set(whole)


def test_sigterm_ends_a_run_behind_its_step_with_a_checkpoint():
    handler, saved = signal.getsignal(signal.SIGTERM), []
    act = {3: lambda: os.kill(os.getpid(), signal.SIGTERM)}
    with pytest.raises(SystemExit) as stopped:
        draw(0, act=act, hooks=[StopAtSigterm(saved.append)])
    assert stopped.value.code == 128 + 15 and saved == [2] and signal.getsignal(signal.SIGTERM) is handler


class Stopping(HookBase):
    """An evaluation behind the second step, during which the run is ended."""

    def after_step(self):
        if self.trainer.iter == 1:
            os.kill(os.getpid(), signal.SIGTERM)


def test_sigterm_between_two_steps_saves_the_last_one():
    saved = []
    with pytest.raises(SystemExit):
        draw(0, hooks=[StopAtSigterm(saved.append), Stopping()])
    assert saved == [1]


def test_sigterm_twice_ends_a_run_at_once():
    saved = []

    def twice():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit):
        draw(0, act={3: twice}, hooks=[StopAtSigterm(saved.append)])
    assert saved == []

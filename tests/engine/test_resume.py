"""What a run begins with, and whose boxes those weights have seen."""

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from detectron2.utils import comm

from ovdet.engine.options import TrainOptions
from ovdet.engine.resume import (
    InitialWeights,
    RunFacts,
    changed_options,
    check_ranks_agree,
    initial_weights,
    locked,
    remember_torchrun,
    restarted,
)
from ovdet.errors import InputError


@pytest.mark.parametrize(
    ("header", "classes"),
    [
        ({"ovdet": {"training_classes": ["cat"]}}, ["cat"]),
        ({"ovdet": {"training_classes": ["cat"], "known_classes": ["cat", "dog"]}}, ["cat", "dog"]),
        ({}, None),
    ],
)
def test_files_and_addresses_say_what_they_know(tmp_path, monkeypatch, header, classes):
    torch.save({"model": {}, **header}, tmp_path / "w.pth")
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    server = ThreadingHTTPServer(("localhost", 0), partial(SimpleHTTPRequestHandler, directory=tmp_path))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    for source in (f"{tmp_path}/w.pth", f"http://localhost:{server.server_port}/w.pth"):
        options = TrainOptions(output_dir=str(tmp_path), init_checkpoint=source)
        trained = tuple(header.get("ovdet", {}).get("training_classes", ()))
        assert initial_weights(options, resume=False) == InitialWeights(source, classes, 0, trained)
    server.shutdown()
    server.server_close()


def test_a_resumed_run_begins_with_its_last_checkpoint(tmp_path):
    for name in ("w", "last"):
        torch.save({"model": {}, "ovdet": {"training_classes": [name]}}, tmp_path / f"{name}.pth")
    options = TrainOptions(output_dir=str(tmp_path), init_checkpoint=f"{tmp_path}/w.pth")
    assert initial_weights(options, resume=True).classes == ["w"]
    (tmp_path / "last_checkpoint").write_text("last.pth")
    assert initial_weights(options, resume=True) == InitialWeights(f"{tmp_path}/last.pth", ["last"], 0, ("last",))
    for name in ("w", "last"):
        torch.save({"model": {}, "iteration": 3}, tmp_path / f"{name}.pth")
    assert initial_weights(options, resume=True).step == 4 and initial_weights(options, resume=False).step == 0
    torch.save({"model": {}, "ovdet": {"training_classes": ["w"]}}, tmp_path / "w.pth")
    assert initial_weights(options, resume=False).classes == ["w"]


def test_none_and_what_cannot_be_had(tmp_path):
    assert initial_weights(TrainOptions(output_dir=str(tmp_path)), resume=True) == InitialWeights("", [])
    with pytest.raises(InputError, match="gone.pth does not exist"):
        initial_weights(TrainOptions(output_dir=str(tmp_path), init_checkpoint=f"{tmp_path}/gone.pth"), resume=False)
    with pytest.raises(InputError, match="initial weights, http://localhost:1/w.pth cannot be fetched"):
        initial_weights(
            TrainOptions(output_dir=str(tmp_path), init_checkpoint="http://localhost:1/w.pth"), resume=False
        )


def test_processes_that_would_go_on_from_different_steps(monkeypatch):
    own = InitialWeights("out/model_0000019.pth", ["cat"], 20)
    check_ranks_agree(own)  # a process alone
    monkeypatch.setattr(comm, "all_gather", lambda first: [first, first._replace(source="/other/name.pth")])
    check_ranks_agree(own)
    monkeypatch.setattr(comm, "all_gather", lambda first: [InitialWeights("", []), first])
    with pytest.raises(InputError, match=r"folder that all machines share, .*\[0, 20\]"):
        check_ranks_agree(own)


def test_what_differs_between_two_configs_is_told_one_by_one():
    before = {"a": {"b": 1, "c": [1, 2]}, "d": [{"e": 1}], "gone": {}}
    after = {"a": {"b": 2, "c": [1, 3]}, "d": [{"e": 1}, {"e": "x"}]}
    assert changed_options(before, after) == [
        "a.b: 1 -> 2",
        "a.c: [1, 2] -> [1, 3]",
        "gone: {} -> none",
        "d[1].e: none -> x",
    ]
    assert changed_options(before, before) == []


def test_facts_of_a_run_are_compared():
    facts = RunFacts(seed=3, batch=8)
    facts.load_state_dict({"seed": 3, "batch": 8})
    facts.load_state_dict({})  # a checkpoint of before
    with pytest.raises(InputError, match="batch 4 of the interrupted run, got 8"):
        facts.load_state_dict({"seed": 3, "batch": 4})


def test_another_number_of_processes_is_told(caplog):
    facts = RunFacts(seed=3)
    facts.load_state_dict(facts.state_dict())
    assert not caplog.records
    facts.load_state_dict({"seed": 3, "processes": 8})
    assert "8 -> 1 processes" in caplog.text


def test_which_starts_of_torchrun_go_on(tmp_path, monkeypatch):
    folder = str(tmp_path)
    for name in ("TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    assert not restarted(folder)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job 7")
    assert not restarted(folder)  # nobody trained here
    remember_torchrun(folder)
    assert restarted(folder)  # a machine came, torchrun counts no failure
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job 8")
    assert not restarted(folder)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")  # torchrun's default
    remember_torchrun(folder)
    assert not restarted(folder)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert restarted(folder)


def test_a_folder_belongs_to_one_process_as_long_as_that_lives(tmp_path):
    with locked(str(tmp_path)), pytest.raises(InputError, match="process [0-9]+ on "), locked(str(tmp_path)):
        pass
    (tmp_path / ".owner").write_text("process 1 on a machine that lost its power")
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation/.ab.part").write_text("half")
    with locked(str(tmp_path)):
        assert not list(tmp_path.rglob("*.part"))
    assert not (tmp_path / ".owner").exists()

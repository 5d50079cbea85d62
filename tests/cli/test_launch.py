"""What a training says before it begins, how its processes find each other, and what it says where they do not."""

import argparse
import importlib
import os
import socket

import pytest
import torch.distributed as dist
from detectron2.utils import comm
from omegaconf import OmegaConf
from torch.multiprocessing import ProcessExitedException

from ovdet.cli import launch
from ovdet.cli.launch import check_machines, environment_report, launch_training
from ovdet.errors import InputError


def test_no_compiler_is_no_complaint(monkeypatch, capfd):
    """As in a bare container; the shell would say that c++ is not found."""
    importlib.import_module("torch.utils.cpp_extension")  # which warns, once, of a CUDA without a GPU
    capfd.readouterr()
    monkeypatch.setenv("CXX", "/nowhere/c++")
    report = environment_report()
    assert "PyTorch" in report and "Not found" in report and os.environ["CXX"] == "/nowhere/c++"
    out, err = capfd.readouterr()
    assert not out and not err


def words(**more):
    given = dict(config_file="configs/quick/vild.py", num_gpus=1, num_machines=1, machine_rank=0, timeout=1.0)
    return argparse.Namespace(**{**given, "dist_url": "tcp://127.0.0.1:1", "eval_only": False, **more})


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"config_file": ""}, "--config-file FILE"),
        ({"num_gpus": 99}, "--num-gpus of at most"),
        ({"timeout": 0}, "--timeout of 1,000,000 minutes at most, got 0"),
        ({"timeout": float("inf")}, "got inf"),
        ({"timeout": float("nan")}, "got nan"),
        ({"num_machines": 2}, "--dist-url tcp://HOST:PORT of machine 0 for 2 machines"),
    ],
)
def test_bad_numbers_are_refused_before_anything_waits(more, message):
    check_machines(words())
    with pytest.raises(InputError, match=message):
        check_machines(words(**more))


@pytest.fixture
def torchrun(monkeypatch):
    """As in the only process of `torchrun --nproc-per-node 1`."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    given = dict(LOCAL_RANK=0, LOCAL_WORLD_SIZE=1, RANK=0, WORLD_SIZE=1, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    for name, value in dict(given, TORCHELASTIC_RUN_ID="run").items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(comm, "_LOCAL_PROCESS_GROUP", None)
    monkeypatch.setattr(launch.torch.cuda, "is_available", lambda: False)
    comm.create_local_process_group.cache_clear()  # once a process, else
    yield
    comm.create_local_process_group.cache_clear()


def test_torchrun_joins_the_processes(torchrun, monkeypatch):
    seen = []

    def train(arguments):
        seen.append((dist.is_initialized(), dist.get_backend(), comm.get_local_size()))

    monkeypatch.setattr(launch, "train_process", train)
    assert launch_training(words()) == 0 and seen == [(True, "gloo", 1)] and not dist.is_initialized()


def test_torchrun_lets_go_of_them_after_a_refusal(torchrun, monkeypatch):
    def refuse(arguments):
        raise InputError("expected something else")

    monkeypatch.setattr(launch, "train_process", refuse)
    with pytest.raises(InputError, match="something else"):
        launch_training(words())
    assert not dist.is_initialized()


@pytest.mark.parametrize(("exit_code", "expected", "told"), [(2, 2, ""), (-9, 137, "process 1 was ended by SIGKILL")])
def test_the_exit_code_is_that_of_the_process_that_failed(monkeypatch, capsys, exit_code, expected, told):
    """Which has said why, unless it was killed."""

    def fail(*given, **options):
        raise ProcessExitedException("process 1 has ended", error_index=1, error_pid=1, exit_code=exit_code)

    monkeypatch.setattr(launch, "launch", fail)
    assert launch_training(words()) == expected
    line = capsys.readouterr().err
    assert told in line and line.count("\n") == bool(told)


@pytest.mark.parametrize(
    ("joined", "message", "code"),
    [
        (True, "[gloo] Timed out waiting 60000ms for recv\nat ProcessGroupGloo.cpp", 2),
        (True, "Connection closed by peer", 2),
        (True, "mat1 and mat2 shapes cannot be multiplied", None),
        (False, "Timed out", None),
    ],
)
def test_a_process_that_is_silent_is_said_in_a_line(request, monkeypatch, tmp_path, capsys, joined, message, code):
    """Other faults of a training are faults of the program, with their traceback."""
    start = launch.train_process
    if joined:
        request.getfixturevalue("torchrun")
        start = launch_training

    def train(config, *, resume):
        raise RuntimeError(message)

    config = OmegaConf.create({"train": {"output_dir": str(tmp_path / "run"), "init_checkpoint": ""}})
    monkeypatch.setattr(launch, "load_config", lambda file, overrides: config)
    for name in ("check_files", "build_options", "environment_report"):
        monkeypatch.setattr(launch, name, lambda *given, **options: "")
    monkeypatch.setattr(launch, "do_train", train)
    given = words(opts=[], resume=False, timeout=1.5)
    if code is None:
        with pytest.raises(RuntimeError, match=message):
            start(given)
        return
    with pytest.raises(SystemExit) as stop:
        start(given)
    assert stop.value.code == code
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    told = "expected all processes to answer within --timeout 1.5 minutes, one did not: "
    assert line.endswith(told + message.partition("\n")[0])

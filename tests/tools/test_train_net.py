"""Training, resuming and evaluating from the command line, with good and with bad input."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from ovdet.data.synthetic import build_synthetic
from ovdet.engine.resume import last_checkpoint, locked
from ovdet.hub.find import find_model

QUICK = "configs/quick/vild.py"


def test_training_leaves_checkpoint_config_and_results(trained):
    files = {file.name for file in trained.output.iterdir()}
    assert {"model_final.pth", "config.yaml", "metrics.json", "evaluation"} <= files
    assert not [name for name in files if name.endswith(".part")]
    assert "loss_distill" in (trained.output / "metrics.json").read_text()
    results = json.loads((trained.output / "evaluation/metrics.json").read_text())
    assert {"AP", "AP50"} <= set(results["base"]) & set(results["novel"]) & set(results["all"])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_is_taken_where_there_is_one(trained, run_tool, tmp_path):
    torch.cuda.reset_peak_memory_stats()
    overrides = (*trained.overrides, "train.device=auto", f"train.output_dir={tmp_path}/run")
    code, _, err = run_tool("train_net.py", "--config-file", QUICK, *overrides)
    assert code == 0, err[-3000:]
    assert torch.cuda.max_memory_allocated() > 0 and (tmp_path / "run/model_final.pth").is_file()


def test_checkpoint_says_what_it_was_trained_with_and_carries_no_vocabulary(trained):
    content = torch.load(trained.output / "model_final.pth", weights_only=True)
    assert content["ovdet"]["teacher"] == "conse" and content["ovdet"]["width"] == 384
    assert len(content["ovdet"]["training_classes"]) == 24
    assert "red square" not in content["ovdet"]["training_classes"]
    assert content["ovdet"]["known_classes"] == content["ovdet"]["training_classes"]
    assert not [key for key in content["model"] if "class_embeddings" in key]


def test_eval_only_prints_base_novel_all(trained, run_tool, tmp_path):
    weights = trained.output / "model_final.pth"
    code, out, err = run_tool(
        "train_net.py", "--config-file", QUICK, *trained.overrides,
        f"train.init_checkpoint={weights}", f"train.output_dir={tmp_path}", "--eval-only",
    )  # fmt: skip
    text = out + err
    assert code == 0, text[-2000:]
    for word in ("base", "novel", "all", "AP50"):
        assert word in text
    (found, scores), (expected, expected_scores) = (
        (json.loads((run / "evaluation/metrics.json").read_text()),
         sorted(each["score"] for each in json.loads((run / "evaluation/detections.json").read_text())))
        for run in (tmp_path, trained.output)
    )  # fmt: skip
    assert found == expected
    assert scores == pytest.approx(expected_scores, abs=1e-4)  # layers are packed in one, see modeling/packed_layers.py


@pytest.mark.slow
def test_resume_goes_on(trained, run_tool, tmp_path):
    shutil.copytree(trained.output, tmp_path / "run")
    overrides = [o for o in trained.overrides if not o.startswith(("train.output_dir", "train.max_iter"))]
    code, out, err = run_tool(
        "train_net.py", "--config-file", QUICK, "--resume", *overrides,
        f"train.output_dir={tmp_path}/run", "train.max_iter=6", "train.log_period=1",
        "train.clip_gradient_norm=1",
        f"train.init_checkpoint={tmp_path}/gone.pth",  # it began with them, and needs them no more
    )  # fmt: skip
    assert code == 0, (out + err)[-2000:]
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.json").read_text().splitlines()]
    fourth, fifth = (next(row for row in rows if row["iteration"] == step and "lr" in row) for step in (4, 5))
    assert fourth["lr"] > fifth["lr"] > 0 and fourth["gradient_norm"] > 0  # schedule and clipping are at work
    assert "another train.max_iter: 4 -> 6" in out and "another train.clip_gradient_norm: 10.0 -> 1" in out
    assert torch.load(tmp_path / "run/model_final.pth", weights_only=True)["iteration"] == 5


def test_the_first_command_of_a_newcomer_runs(run_tool, tmp_path):
    """ViLD on photos of one's own begins with a base detector out of the package, and keeps that as it is."""
    build_synthetic(tmp_path / "data", num_train=2, num_val=1)
    code, out, err = run_tool(
        "train_net.py", "--config-file", "configs/lite/vild.py", f"dataset.root={tmp_path}/data",
        f"dataset.split={tmp_path}/data/ov_split.json", f"train.output_dir={tmp_path}/run", "train.device=cpu",
        "train.max_iter=1", "dataloader.train.total_batch_size=1", "dataloader.train.num_workers=0",
        "dataloader.test.num_workers=0", "dataset.num_base=24", "dataset.name=newcomer",
    )  # fmt: skip
    assert code == 0, (out + err)[-2000:]
    before = load_file(find_model("ovdet-lite-base48").weights)
    after = torch.load(tmp_path / "run/model_final.pth", weights_only=True)["model"]
    parts = [key for key in after if key.startswith(("backbone.", "proposal_generator.")) and key in before]
    assert len(parts) > 100 and all(torch.equal(after[key], before[key].to(after[key].dtype)) for key in parts)


@pytest.mark.slow
def test_parts_of_other_weights_are_where_a_run_begins(trained, run_tool, tmp_path):
    """And nothing but these parts: the heads are new."""
    weights = trained.output / "model_final.pth"
    overrides = [o for o in trained.overrides if not o.startswith(("train.output_dir", "train.max_iter"))]
    code, out, err = run_tool(
        "train_net.py", "--config-file", QUICK, *overrides, f"train.output_dir={tmp_path}", "train.max_iter=1",
        f"train.init_checkpoint={weights}", "train.init_parts=backbone", "optimizer.lr=0", "train.seed=5",
    )  # fmt: skip
    assert code == 0, (out + err)[-2000:]
    before, after = (torch.load(file, weights_only=True)["model"] for file in (weights, tmp_path / "model_final.pth"))
    same = {key for key, value in before.items() if torch.equal(value, after[key])}
    assert {key for key in before if key.startswith("backbone.") and key.endswith("weight")} <= same
    assert not same & {key for key in before if key.startswith("roi_heads.box_head.") and key.endswith("weight")}


def test_resume_of_a_run_that_knows_a_novel_class(trained, run_tool, tmp_path):
    shutil.copytree(trained.output, tmp_path / "run")
    content = torch.load(tmp_path / "run/model_final.pth", weights_only=True)
    content["ovdet"]["known_classes"].append("blue circle")
    torch.save(content, tmp_path / "run/model_final.pth")
    overrides = [o for o in trained.overrides if not o.startswith(("train.output_dir", "train.max_iter"))]
    overrides += [f"train.output_dir={tmp_path}/run", "train.max_iter=6"]
    code, _, err = run_tool("train_net.py", "--config-file", QUICK, "--resume", *overrides)
    last = err.strip().splitlines()[-1]
    assert code == 2 and "model_final.pth was trained on blue circle" in last


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("optimizer.lr=0.5", "optimizer, got 0.5"),
        ("optimizer.weight_decay=0.5", "optimizer, got 0.5"),
        ("train.freeze=backbone", "optimizer and train.freeze of the interrupted run, got others: "),
        ("train.max_iter=3", "is at step 4 of 3"),
        ("train.seed=7", "train.seed 0 of the interrupted run, got 7"),
        ("dataloader.train.total_batch_size=4", "total_batch_size 2 of the interrupted run, got 4"),
        ("model.roi_heads.box_head.fc_dims=[16]", "of shape"),
    ],
)
def test_resume_of_another_run(trained, run_tool, tmp_path, change, message):
    shutil.copytree(trained.output, tmp_path / "run")
    before = contents(tmp_path / "run")
    overrides = [o for o in trained.overrides if not o.startswith(("train.output_dir", "train.max_iter"))]
    overrides += [f"train.output_dir={tmp_path}/run", "train.max_iter=6"]
    code, _, err = run_tool("train_net.py", "--config-file", QUICK, "--resume", *overrides, change)
    last = err.strip().splitlines()[-1]
    assert code == 2 and last.startswith("error: ") and message in last and "Traceback" not in err
    assert contents(tmp_path / "run") == before


def contents(folder: Path) -> dict[str, bytes]:
    """All that a run has written, but for its log."""
    return {str(file): file.read_bytes() for file in folder.rglob("*") if file.is_file() and file.name != "log.txt"}


def interrupted(trained, folder: Path, last: str) -> list[str]:
    """The quick training as if it had been killed behind a checkpoint -> overrides of its command."""
    shutil.copytree(trained.output, folder)
    shutil.rmtree(folder / "evaluation")
    (folder / "model_final.pth").unlink()
    (folder / "last_checkpoint").write_text(last)
    return [
        *(each for each in trained.overrides if not each.startswith("train.output_dir")),
        f"train.output_dir={folder}",
    ]


@pytest.mark.parametrize("last", ["model_0000001.pth", pytest.param("model_0000003.pth", marks=pytest.mark.slow)])
def test_a_resumed_run_ends_as_the_unbroken_one(trained, run_tool, tmp_path, last):
    """To the bit: weights, optimizer, figures; also one that was killed behind its last step."""
    overrides = interrupted(trained, tmp_path / "run", last)
    (tmp_path / "run/.0123.part").write_text("of a dead process")
    code, out, err = run_tool("train_net.py", "--config-file", QUICK, "--resume", *overrides)
    assert code == 0, (out + err)[-2000:]
    whole, resumed = (
        torch.load(each / "model_final.pth", weights_only=True) for each in (trained.output, tmp_path / "run")
    )
    assert whole["iteration"] == resumed["iteration"] == 3
    assert all(torch.equal(value, resumed["model"][key]) for key, value in whole["model"].items())
    states = [each["trainer"]["optimizer"]["state"] for each in (whole, resumed)]
    assert all(torch.equal(states[0][i]["exp_avg"], states[1][i]["exp_avg"]) for i in states[0]) and states[0]
    figures = [(each / "evaluation/metrics.json").read_bytes() for each in (trained.output, tmp_path / "run")]
    assert figures[0] == figures[1] and "resumed with another train.output_dir" in out
    assert not list((tmp_path / "run").rglob(".*.part"))


@pytest.mark.slow
def test_a_fresh_start_that_dies_leaves_no_older_run_to_resume(trained, run_tool, tmp_path):
    shutil.copytree(trained.output, tmp_path / "run")
    options = (*trained.overrides, f"train.output_dir={tmp_path}/run", "optimizer.lr=1e30", "train.max_iter=9")
    assert run_tool("train_net.py", "--config-file", QUICK, *options)[0] == 2
    assert last_checkpoint(str(tmp_path / "run")) == ""


def test_two_runs_in_one_folder(trained, run_tool, tmp_path):
    overrides = interrupted(trained, tmp_path / "run", "model_0000001.pth")
    before = contents(tmp_path / "run")
    with locked(str(tmp_path / "run")):
        code, _, err = run_tool("train_net.py", "--config-file", QUICK, "--resume", *overrides)
    assert code == 2 and f"process {os.getpid()} on " in err.strip().splitlines()[-1]
    assert contents(tmp_path / "run").keys() - before.keys() <= {str(tmp_path / "run/.lock")}


@pytest.mark.slow
@pytest.mark.parametrize("kills", [2, 50])
def test_kills_change_nothing(trained, tmp_path, kills):
    overrides = interrupted(trained, tmp_path / "run", "model_0000001.pth")
    script = Path(__file__).parents[1] / "kill_training.py"
    command = [sys.executable, script, str(kills), "--config-file", QUICK, "--resume", *overrides, "train.max_iter=4"]
    done = subprocess.run(command, capture_output=True, timeout=1500)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    whole, resumed = (
        torch.load(each / "model_final.pth", weights_only=True) for each in (trained.output, tmp_path / "run")
    )
    assert all(torch.equal(value, resumed["model"][key]) for key, value in whole["model"].items())


@pytest.mark.slow
def test_torchrun_goes_on_where_a_process_is_killed(trained, tmp_path):
    """From the last checkpoint, to the weights of an unbroken run of as many processes."""
    train = ["--nproc-per-node", "2", "--max-restarts", "2", "--monitor-interval", "0.2", "tools/train_net.py"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", *train, "--config-file", QUICK]
    models = []
    for name, steps in (("whole", 8), ("broken", 8)):
        overrides = [*trained.overrides, f"train.output_dir={tmp_path}/{name}", f"train.max_iter={steps}"]
        run = subprocess.Popen([*command, *overrides], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if name == "broken":
            while not (tmp_path / name / "last_checkpoint").exists() and run.poll() is None:
                time.sleep(0.05)
            workers = [each for each in psutil.Process(run.pid).children() if "tools/train_net.py" in each.cmdline()]
            assert len(workers) == 2
            workers[1].kill()
        log = run.communicate(timeout=400)[0].decode()
        assert run.returncode == 0, log[-3000:]
        models.append(torch.load(tmp_path / name / "model_final.pth", weights_only=True)["model"])
    assert "Starting training from iteration 2" in log or "Starting training from iteration 4" in log
    assert all(torch.equal(value, models[1][key]) for key, value in models[0].items())


@pytest.mark.slow
def test_torchrun_that_is_told_to_end_keeps_what_is_done(trained, tmp_path):
    """SIGTERM reaches both processes; --resume goes on behind the step that was saved."""
    overrides = [*trained.overrides, f"train.output_dir={tmp_path}/run", "train.checkpoint_period=9999"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["tools/train_net.py", "--config-file", QUICK, *overrides]
    run = subprocess.Popen([*command, "train.max_iter=9999"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    metrics = tmp_path / "run/metrics.json"
    while not (metrics.exists() and metrics.read_text()) and run.poll() is None:
        time.sleep(0.05)
    run.terminate()
    run.communicate(timeout=120)
    last = (tmp_path / "run/last_checkpoint").read_text()
    step = torch.load(tmp_path / "run" / last, weights_only=True)["iteration"]
    assert run.returncode and step > 0 and not list((tmp_path / "run").glob(".*.part"))
    again = subprocess.run([*command, f"train.max_iter={step + 3}", "--resume"], capture_output=True, timeout=300)
    log = (again.stdout + again.stderr).decode()
    assert again.returncode == 0 and f"Starting training from iteration {step + 1}" in log, log[-3000:]


@pytest.mark.slow
def test_a_process_that_hangs_ends_the_run_in_one_line(trained, tmp_path):
    overrides = [*trained.overrides, f"train.output_dir={tmp_path}/run", "train.max_iter=9999"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["tools/train_net.py", "--timeout", "0.5", "--config-file", QUICK, *overrides]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    while not (tmp_path / "run/last_checkpoint").exists() and run.poll() is None:
        time.sleep(0.05)
    workers = [each for each in psutil.Process(run.pid).children() if "tools/train_net.py" in each.cmdline()]
    workers[1].suspend()
    log = run.communicate(timeout=300)[0].decode()
    said = [line for line in log.splitlines() if line.startswith("error: ")]
    assert run.returncode and len(said) == 1 and "within --timeout 0.5 minutes" in said[0], log[-3000:]


@pytest.mark.slow
def test_after_fine_tuning_the_names_of_before_are_still_trained_ones(trained, run_tool, tmp_path):
    content = torch.load(trained.output / "model_final.pth", weights_only=True)
    content["ovdet"].update(training_classes=["red kite"], known_classes=["red kite"])
    torch.save(content, tmp_path / "w.pth")
    overrides = [*trained.overrides, f"train.output_dir={tmp_path}/run", "train.max_iter=1"]
    code, _, err = run_tool(
        "train_net.py", "--config-file", QUICK, *overrides, f"train.init_checkpoint={tmp_path}/w.pth"
    )
    assert code == 0, err[-2000:]
    header = torch.load(tmp_path / "run/model_final.pth", weights_only=True)["ovdet"]
    assert "red kite" in header["training_classes"] and len(header["training_classes"]) == 25


def test_a_training_command_with_eval_only_measures_what_it_trained(trained, run_tool, tmp_path):
    """Not the weights that the run began with."""
    shutil.copytree(trained.output, tmp_path / "run")
    torch.save({"model": {}}, tmp_path / "w.pth")
    config = (tmp_path / "run/config.yaml").read_text()
    (tmp_path / "run/config.yaml").write_text(
        re.sub("init_checkpoint: [^,]*", f"init_checkpoint: {tmp_path}/w.pth", config)
    )
    overrides = [*trained.overrides, f"train.output_dir={tmp_path}/run", f"train.init_checkpoint={tmp_path}/w.pth"]
    code, _, err = run_tool("train_net.py", "--config-file", QUICK, "--eval-only", *overrides)
    assert code == 0 and "its last checkpoint is evaluated" in err, err


def test_training_that_diverges_ends_in_one_line(trained, run_tool, tmp_path):
    options = (*trained.overrides, f"train.output_dir={tmp_path}/run", "optimizer.lr=1e30", "train.max_iter=9")
    code, _, err = run_tool("train_net.py", "--config-file", QUICK, *options)
    last = err.strip().splitlines()[-1]
    assert code == 2 and "Traceback" not in err
    assert last.startswith("error: expected finite losses, got nan or infinity at step ") and "optimizer.lr" in last


def run_machines(*arguments_of_each: tuple[str, ...]) -> tuple[list[int], list[str]]:
    """train_net.py on so many machines -> their exit codes, and what they say."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        url = f"tcp://localhost:{probe.getsockname()[1]}"
    command = [sys.executable, "tools/train_net.py", "--config-file", QUICK, "--dist-url", url]
    command += ["--num-machines", str(len(arguments_of_each))]
    runs = [
        subprocess.Popen(
            [*command, "--machine-rank", str(rank), *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        for rank, arguments in enumerate(arguments_of_each)
    ]
    logs = [run.communicate(timeout=300)[0].decode() for run in runs]
    return [run.returncode for run in runs], logs


@pytest.mark.slow
def test_machines_that_do_not_share_the_run_they_resume(trained, tmp_path):
    """Each would go on from a step of its own."""
    shutil.copytree(trained.output, tmp_path / "0")
    before = {file: file.read_bytes() for file in (tmp_path / "0").glob("*.pth")}
    options = [("--resume", *trained.overrides, "train.max_iter=8", f"train.output_dir={tmp_path}/{k}") for k in "01"]
    codes, logs = run_machines(*options)
    assert codes == [2, 2], logs[0][-3000:] + logs[1][-3000:]
    for log in logs:
        last = log.strip().splitlines()[-1]
        assert last.startswith("error: expected an output folder that all machines share, got ") and "[0, 4]" in last
    assert before == {file: file.read_bytes() for file in (tmp_path / "0").glob("*.pth")}


@pytest.mark.slow
def test_two_machines_without_gpus(trained, run_tool, tmp_path):
    """They train one model, and find together what one process finds with it."""
    overrides = (*trained.overrides, f"train.output_dir={tmp_path}/run")
    codes, logs = run_machines(overrides, overrides)
    assert codes == [0, 0], logs[0][-3000:] + logs[1][-3000:]
    weights = f"train.init_checkpoint={tmp_path}/run/model_final.pth"
    code, _, err = run_tool(
        "train_net.py", "--config-file", QUICK, "--eval-only", *overrides, f"train.output_dir={tmp_path}/alone", weights
    )
    assert code == 0, err[-3000:]
    together, alone = ((tmp_path / run / "evaluation/metrics.json").read_bytes() for run in ("run", "alone"))
    assert together == alone


def test_training_reports_what_it_sees(trained):
    report = json.loads((trained.output / "leak_report.json").read_text())
    assert report["leaks"] is False and report["shared_photos"] == []
    assert (report["num_photos"], report["num_test_photos"]) == (16, 4)
    assert len(report["vocabulary"]["base"]) == 24 and "red circle" in report["vocabulary"]["base"]
    assert sum(report["boxes"]["base"].values()) > 16 and report["boxes"]["novel"] == {}
    assert "training vocabulary" in trained.log and "0 in both" in trained.log
    assert "L1Distillation x 0.1, on teacher" in trained.log and "OnlineRegions" in trained.log


def test_training_novel_classes_is_refused(trained, run_tool, tmp_path):
    code, _, err = run_tool(
        "train_net.py", "--config-file", QUICK, *trained.overrides, f"train.output_dir={tmp_path}",
        "dataset.name=leaky", "dataloader.train.dataset.names.subsets=[base,novel]",
    )  # fmt: skip
    assert code == 2
    last = err.strip().splitlines()[-1]
    assert last.startswith("error: ") and "novel" in last and "blue circle" in last
    report = json.loads((tmp_path / "leak_report.json").read_text())
    assert report["leaks"] is True and report["boxes"]["novel"]["blue circle"] > 0


def test_training_without_a_split_is_refused_where_the_test_set_has_one(trained, run_tool, tmp_path):
    """To such a training set all classes are base."""
    code, _, err = run_tool(
        "train_net.py", "--config-file", QUICK, *trained.overrides, f"train.output_dir={tmp_path}",
        "dataset.name=splitless", "dataloader.train.dataset.names.split=null",
    )  # fmt: skip
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code == 2 and "Traceback" not in err and errors == err.strip().splitlines()[-1:]
    assert "novel classes" in errors[0] and "blue circle" in errors[0] and "red circle" not in errors[0]
    report = json.loads((tmp_path / "leak_report.json").read_text())
    assert report["boxes"]["novel"]["blue circle"] > 0 and len(report["vocabulary"]["novel"]) == 6
    assert not list(tmp_path.glob("*.pth"))


def test_a_training_evaluates_with_the_names_that_its_checkpoint_calls_trained(
    trained, run_tool, tmp_path, monkeypatch
):
    """As --eval-only does afterwards, for which the header alone says it."""
    asked = []

    def do_test(config, model, classes):
        asked.append([name for name, base in zip(classes.names, classes.is_trained_class, strict=True) if base])
        return {}

    monkeypatch.setattr("ovdet.engine.train.do_test", do_test)
    splits = [f"dataloader.{part}.dataset.names.split=null" for part in ("train", "test")]
    code, _, err = run_tool(
        "train_net.py", "--config-file", QUICK, *trained.overrides, f"train.output_dir={tmp_path}", "train.max_iter=1",
        "dataset.name=without_split", *splits, "dataloader.test.dataset.names.subsets=[base]",
    )  # fmt: skip
    assert code == 0, err[-2000:]
    header = torch.load(tmp_path / "model_final.pth", weights_only=True)["ovdet"]
    content = json.loads((trained.output.parent / "data/instances_train.json").read_text())
    boxed = {each["category_id"] for each in content["annotations"]}
    expected = [each["name"] for each in content["categories"] if each["id"] in boxed]
    assert 1 < len(expected) < len(content["categories"])
    assert asked == [expected] == [header["training_classes"]]


def test_training_on_photos_of_the_test_set_is_said(trained, run_tool, tmp_path):
    data = trained.output.parent / "data"
    code, out, err = run_tool(
        "train_net.py", "--config-file", QUICK, *trained.overrides, f"train.output_dir={tmp_path}", "train.max_iter=1",
        "dataset.name=shared", f"dataset.train={data}/instances_val.json",
    )  # fmt: skip
    assert code == 0, (out + err)[-2000:]
    shared = json.loads((tmp_path / "leak_report.json").read_text())["shared_photos"]
    assert 0 < len(shared) <= 4 and f"{len(shared)} of the 4 test photos are in the training set too" in out + err


def test_initial_weights_that_know_a_novel_class_stop_the_run(trained, run_tool, tmp_path):
    torch.save({"model": {}, "ovdet": {"training_classes": ["blue circle"]}}, tmp_path / "other.pth")
    overrides = [o for o in trained.overrides if not o.startswith("train.output_dir")]
    code, _, err = run_tool(
        "train_net.py", "--config-file", QUICK, *overrides, f"train.output_dir={tmp_path}/run",
        f"train.init_checkpoint={tmp_path}/other.pth",
    )  # fmt: skip
    last = err.strip().splitlines()[-1]
    assert code == 2 and "other.pth was trained on blue circle" in last and not list(tmp_path.glob("run/*.pth"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--config-file"),
        (["--config-file", "configs/none.py"], "configs/none.py does not exist"),
        (["--config-file", QUICK, "train.max_itr=3"], "max_iter"),
        (["--config-file", QUICK, "train.device=cuda:7"], "cuda:7"),
        (["--config-file", "configs/lite/vild_text.py", "dataset.root=/nowhere"], "/nowhere"),
        (["--config-file", QUICK, "--eval-only", "train.init_checkpoint=/nowhere.pth"], "/nowhere.pth does not exist"),
        (["--config-file", QUICK, "--eval-only"], "expected a checkpoint of a training run in"),
        (["--config-file", "configs/lite/vild.py", "--eval-only"], "got none: train it first"),
        (["--config-file", "configs/lite"], "configs/lite is a folder"),
        (["--config-file", QUICK, "--num-gpus=64"], "expected --num-gpus"),
        (["--config-file", QUICK, "--num-machines=2"], "expected --dist-url"),
        (["--config-file", QUICK, "train.amp=maybe"], "train.amp"),
        (["--config-file", QUICK, "dataloader.train.total_batch_size=0"], "total_batch_size"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(trained, run_tool, tmp_path, arguments, message):
    if arguments:
        flags = [a for a in arguments[2:] if a.startswith("--")]
        drawn = [o for o in trained.overrides if o.startswith("dataset.")] if QUICK in arguments else []
        rest = [a for a in arguments[2:] if not a.startswith("--")]
        arguments = [*arguments[:2], *flags, f"train.output_dir={tmp_path}/run", *drawn, *rest]
    code, _, err = run_tool("train_net.py", *arguments)
    assert code == 2
    last = err.strip().splitlines()[-1]
    assert last.startswith("error: ") and message in last
    assert "Traceback" not in err
    assert not list(tmp_path.rglob("*.pth"))


@pytest.mark.parametrize(
    ("config", "override", "message"),
    [
        (
            "configs/lite/base_detector.py",
            "dataset.root=/nowhere",
            "dataset.train to be there, /nowhere/instances_train.json",
        ),
        (QUICK, "train.init_checkpoint=/nowhere.pth", "train.init_checkpoint to be there, /nowhere.pth does not exist"),
        (
            QUICK,
            "train.init_checkpoint=/no/run/model_final.pth",
            "the training with train.output_dir=/no/run writes it",
        ),
        ("configs/quick/vild_stored.py", "dataset.region_store=/nowhere", "dataset.region_store to be there, /nowhere"),
    ],
)
def test_what_is_not_there_is_said_before_anything_is_written(run_tool, tmp_path, config, override, message):
    code, out, err = run_tool("train_net.py", "--config-file", config, override, f"train.output_dir={tmp_path}/run")
    assert (code, out) == (2, "") and err.startswith("error: ") and message in err and len(err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_photo_is_one_line(trained, run_tool, tmp_path, workers):
    shutil.copytree(trained.output.parent / "data", tmp_path / "data")
    for photo in (tmp_path / "data/images").iterdir():
        photo.write_bytes(photo.read_bytes()[:300])
    overrides = [o for o in trained.overrides if not o.startswith(("train.output_dir", "dataset.root"))]
    code, _, err = run_tool(
        "train_net.py", "--config-file", QUICK, *overrides, f"train.output_dir={tmp_path}/run",
        f"dataset.root={tmp_path}/data", f"dataset.name=broken{workers}", f"dataloader.train.num_workers={workers}",
    )  # fmt: skip
    last = err.strip().splitlines()[-1]
    assert code == 2 and "Traceback" not in err
    assert last.startswith("error: ") and "data/images/" in last


def test_a_folder_that_cannot_be_written_to(trained, run_tool, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = run_tool("train_net.py", "--config-file", QUICK, f"train.output_dir={tmp_path}/file/run")
    assert code == 2 and "place to write to" in err.strip().splitlines()[-1]

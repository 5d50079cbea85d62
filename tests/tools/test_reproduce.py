"""The table of methods: from what finished runs left, the commands of a row, and bad input."""

import json
from pathlib import Path

import pytest
from matplotlib.axes import Axes
from reproduce import lite as reproduce

from ovdet.engine.config import load_config
from ovdet.errors import InputError

ROOT = Path(__file__).parents[2]


def finished(folder, seed: int, row: str, base: float) -> None:
    run = folder / f"seed_{seed}" / row / "evaluation"
    run.mkdir(parents=True)
    figures = {"AP": base / 2, "AP50": base}
    (run / "metrics.json").write_text(json.dumps({subset: figures for subset in ("base", "novel", "all")}))
    log = run if seed % 2 else run.parent  # evaluated by itself, or at the end of a training
    (log / "log.txt").write_text("x: 40 photos in 10.0 s: 4.00 photos/s\n")
    losses = [{"iteration": step, "loss_cls": 1 / step} for step in (20, 40, 60)]
    (run.parent / "metrics.json").write_text("\n".join(map(json.dumps, losses)))


@pytest.fixture
def run_commands(monkeypatch) -> tuple[list, list]:
    """The commands that were run, none of which runs in truth, and a list of the exit code that they end with."""
    commands, codes = [], [0]
    monkeypatch.setattr(
        reproduce.subprocess, "run", lambda words: commands.append(words) or type("Run", (), {"returncode": codes[0]})
    )
    return commands, codes


def test_the_table_and_the_picture(tmp_path):
    finished(tmp_path, 0, "vild", 10.0)
    finished(tmp_path, 1, "vild", 14.0)
    finished(tmp_path, 0, "closed_set", 20.0)
    lines = reproduce.write_results(tmp_path).splitlines()
    assert lines[2].startswith("| supervised") and "| 20.0 | 20.0 | 20.0 | 10.0 | 0.25 | 1 |" in lines[2]
    assert "| 12.0 (10.0 to 14.0) |" in lines[3] and lines[3].endswith("| 2 |") and len(lines) == 4
    assert (tmp_path / "results.md").is_file()
    assert (tmp_path / "learning_curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_row_is_run_once_and_a_failure_stops(tmp_path, run_commands):
    commands, codes = run_commands
    (tmp_path / "base_detector").mkdir()
    (tmp_path / "base_detector/model_final.pth").touch()
    rows = reproduce.choose_rows(["closed_set"])
    reproduce.run_rows(rows, "data", tmp_path, seed=3, overrides=["train.max_iter=2"])
    assert commands[0][1:4] == [f"{ROOT}/tools/train_net.py", "--config-file", f"{ROOT}/configs/lite/closed_set.py"]
    assert {"--resume", 'dataset.root="data"', "train.seed=3", "train.max_iter=2"} <= set(commands[0])
    finished(tmp_path, 3, "closed_set", 1.0)
    reproduce.run_rows(rows, "data", tmp_path, seed=3)
    assert len(commands) == 1
    codes[0] = 1
    with pytest.raises(InputError, match="tools/train_net.py"):
        reproduce.run_rows(rows, "data", tmp_path, seed=4)


def test_a_row_that_was_trained_but_not_evaluated_is_evaluated_with_its_own_weights(tmp_path, run_commands):
    for run in ("base_detector", "seed_0/vild"):
        (tmp_path / run).mkdir(parents=True)
        (tmp_path / run / "model_final.pth").touch()
    reproduce.run_rows(reproduce.choose_rows(["vild"]), "data", tmp_path)
    commands, _ = run_commands
    assert (
        "--eval-only" in commands[0]
        and f'train.init_checkpoint="{tmp_path}/seed_0/vild/model_final.pth"' in commands[0]
    )


def test_a_row_of_averaged_weights(tmp_path, run_commands):
    for run in ("base_detector", "seed_0/ovdet_lite"):
        (tmp_path / run).mkdir(parents=True)
        (tmp_path / run / "model_final.pth").touch()
    reproduce.run_rows(reproduce.choose_rows(["ovdet_lite_averaged"]), "data", tmp_path)
    (average, evaluate), _ = run_commands
    weights = f"{tmp_path}/seed_0/ovdet_lite_averaged/model_final.pth"
    before, after = f"{tmp_path}/base_detector/model_final.pth", f"{tmp_path}/seed_0/ovdet_lite/model_final.pth"
    assert average[1:] == [
        f"{ROOT}/tools/average_weights.py", "--before", before, "--after", after, "--share", "0.7", "--output", weights
    ]  # fmt: skip
    assert {f"{ROOT}/configs/lite/ovdet_lite.py", "--eval-only", f'train.init_checkpoint="{weights}"'} <= set(evaluate)


def test_commands_hold_in_any_folder_and_for_any_path(tmp_path, run_commands, monkeypatch):
    """Tools and configs are the repository's, data and output the user's, whatever characters are in them."""
    monkeypatch.chdir(tmp_path)
    reproduce.run_rows(reproduce.choose_rows(["base_detector"]), "photos, a=b (1)", 'out "q"')
    ((_, tool, _, config, *words),) = run_commands[0]
    assert Path(tool).is_file() and Path(config).is_file()
    config = load_config(config, words[1:])
    assert config.dataset.train == "photos, a=b (1)/instances_train.json"
    assert config.train.output_dir == 'out "q"/base_detector'


def test_objectives_stand_on_a_detector_that_is_there(tmp_path, run_commands):
    rows = reproduce.choose_rows(["vild", "objectives"])
    assert [row.name for row in rows][:2] == ["vild", "distill_cosine"] and len(rows) == 11
    reproduce.run_rows(rows[:2], "data", tmp_path, start="ovdet-lite-base48")
    for command in run_commands[0]:
        assert 'train.init_checkpoint="ovdet-lite-base48"' in command and "--eval-only" not in command


def test_each_row_has_a_config():
    for row in reproduce.choose_rows([]) + reproduce.choose_rows(["objectives"]):
        assert (ROOT / f"configs/lite/{row.config}.py").is_file()


def test_figures_of_no_objects_are_a_dash(tmp_path):
    finished(tmp_path, 0, "vild", 10.0)
    file = tmp_path / "seed_0/vild/evaluation/metrics.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "novel": {"AP": None, "AP50": None}}))
    assert "| 10.0 | - | 10.0 | 5.0 | 0.25 | 1 |" in reproduce.table(tmp_path)


def test_rows_that_need_the_first_one_say_so(tmp_path):
    with pytest.raises(InputError, match="base_detector before vild"):
        reproduce.run_rows(reproduce.choose_rows(["vild"]), "data", tmp_path)


def test_rows_that_score_with_the_weights_of_another_say_so(tmp_path):
    (tmp_path / "base_detector").mkdir()
    (tmp_path / "base_detector/model_final.pth").touch()
    with pytest.raises(InputError, match="vild_text before rcnn_style"):
        reproduce.run_rows(reproduce.choose_rows(["rcnn_style"]), "data", tmp_path)


def test_bad_rows_on_the_command_line(run_tool, tmp_path):
    code, _, err = run_tool("reproduce_lite.py", "--data", tmp_path, "--output", tmp_path / "out", "--rows", "vild9")
    assert code == 2 and "vild9" in err.strip().splitlines()[-1] and not (tmp_path / "out").exists()


@pytest.mark.parametrize("row", ["rcnn_style", "vild_text_teacher"])
def test_rows_that_score_with_the_weights_of_another_take_those_of_their_seed(tmp_path, run_commands, row):
    for run in ("base_detector", "seed_0/vild_text", "seed_3/vild_text"):
        (tmp_path / run).mkdir(parents=True)
        (tmp_path / run / "model_final.pth").touch()
    reproduce.run_rows(reproduce.choose_rows([row]), "data", tmp_path, seed=3)
    ((*words,),) = run_commands[0]
    assert f"{ROOT}/configs/lite/{row}.py" in words and "--eval-only" in words
    assert f'train.init_checkpoint="{tmp_path}/seed_3/vild_text/model_final.pth"' in words


def test_curves_are_the_losses_of_each_run(tmp_path, monkeypatch):
    finished(tmp_path, 0, "vild", 10.0)
    drawn, plot = {}, Axes.plot

    def spy(axes, steps, values, **style):
        drawn[axes.get_title(), style["label"]] = list(steps), list(values)
        return plot(axes, steps, values, **style)

    monkeypatch.setattr(Axes, "plot", spy)
    reproduce.draw_learning_curves(tmp_path)
    ((key, (steps, values)),) = drawn.items()
    assert key == ("loss_cls", "vild") and steps == [20, 40, 60]
    assert values[1] == pytest.approx((1 / 20 + 1 / 40 + 1 / 60) / 3)  # smoothed


def test_the_command(tmp_path, run_commands, run_tool):
    (tmp_path / "base_detector").mkdir()
    (tmp_path / "base_detector/model_final.pth").touch()
    finished(tmp_path, 3, "closed_set", 1.0)
    options = ("--data", "D", "--output", tmp_path, "--seed", 3)
    code, out, err = run_tool("reproduce_lite.py", *options, "--rows", "vild", "closed_set")
    assert code == 0, err
    ((*words,),) = run_commands[0]
    assert 'dataset.root="D"' in words and "train.seed=3" in words and f"{ROOT}/configs/lite/vild.py" in words
    assert "| supervised, base classes only | 1.0 |" in out and (tmp_path / "results.md").read_text() in out

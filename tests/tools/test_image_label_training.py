"""Training on boxes of some names and photos of others, as a user runs it."""

import json

import pytest


def steps_of(folder):
    lines = map(json.loads, (folder / "metrics.json").read_text().splitlines())
    return [each for each in lines if "loss_image_labels" in each]


def options(folder, steps, **more):
    given = {"dataset.root": f"{folder}/data", "train.output_dir": f"{folder}/run", "train.max_iter": steps}
    given |= {
        "train.log_period": 1,
        "train.device": "cpu",
        "train.init_checkpoint": "",
        "train.checkpoint_period": 1000,
    }
    given |= {"dataloader.train.num_workers": 0, "dataloader.test.num_workers": 0, **more}
    return [f"{key}={value}" for key, value in given.items()]


def test_two_steps_and_an_evaluation(trained, run_tool, tmp_path):
    small = {"dataset.prepare.num_train": 8, "dataset.prepare.num_val": 2, "dataset.prepare.num_labeled": 2}
    more = [each for each in trained.overrides if each.startswith("model.")]
    arguments = [*more, *options(tmp_path, 2, **small, **{"dataloader.train.total_batch_size": 4})]
    code, _, err = run_tool("train_net.py", "--config-file", "configs/quick/image_labels.py", *arguments)
    assert code == 0, err[-3000:]
    assert max(each["loss_image_labels"] for each in steps_of(tmp_path / "run")) > 0
    assert "AP50" in (tmp_path / "run/evaluation/metrics.json").read_text()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_both_losses_fall(run_tool, tmp_path):
    """The quick config with its backbone of ImageNet's weights, 300 steps."""
    arguments = options(tmp_path, 300, **{"dataset.name": "both_losses"})  # that of the test above is registered
    code, _, err = run_tool("train_net.py", "--config-file", "configs/quick/image_labels.py", *arguments)
    assert code == 0, err[-3000:]
    steps = steps_of(tmp_path / "run")
    labeled = [each["loss_image_labels"] for each in steps if each["loss_image_labels"] > 0]
    boxed = [each["loss_cls"] for each in steps]
    first, last = (lambda values: sum(values[:40]) / 40), (lambda values: sum(values[-40:]) / 40)
    print(f"image labels {first(labeled):.3f} -> {last(labeled):.3f}, classes {first(boxed):.3f} -> {last(boxed):.3f}")
    assert last(labeled) < 0.7 * first(labeled) and last(boxed) < 0.7 * first(boxed)
    results = json.loads((tmp_path / "run/evaluation/metrics.json").read_text())
    novel = {name: each for name, each in results["per_class"].items() if name in ("red square", "blue circle")}
    print(novel)

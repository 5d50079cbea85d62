"""From data folders to the shipped default: train on several data sets, average, pack, calibrate, evaluate.

Each stage is a command of `ovdet` and leaves a file; a stage whose file is there is not run again, and an interrupted
training continues.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ovdet.engine.config import override
from ovdet.errors import InputError
from ovdet.files import atomic_write, require_path
from reproduce.lite import FINAL, ROOT, choose_rows, run_folder, run_rows

CONFIG = str(ROOT / "configs/lite/ovdet_lite_mixture.py")
START_ROWS = ("base_detector", "ovdet_lite", "ovdet_lite_averaged")  # of reproduce_lite.py
METRICS = ("AP50", "AP", "APs")


@dataclass(frozen=True)
class Recipe:
    """The arguments of all stages.

    Attributes:
        data: `dataset.root` of the config.
        output: everything goes below it.
        start: a detector, as `train.init_checkpoint` takes it; "" trains it first, from nothing.
        config: of the training.
        share: of the trained weights in the average with the start.
        card: the model card.
        calibrate: "X.json=DIR" of photos that are neither trained nor tested on; none leaves scores as they are.
        precision: see `ovdet calibrate`.
        test: "X.json=DIR" of photos to evaluate on, each under the json's name.
        overrides: `key=value` of the trainings.
    """

    data: str
    output: Path
    start: str
    config: str
    share: float
    card: str
    calibrate: tuple[str, ...]
    precision: float
    test: tuple[str, ...]
    overrides: tuple[str, ...]


def make(recipe: Recipe) -> Path:
    """Run what is not done yet; their output goes to the terminal.

    Returns:
        The model folder.

    Raises:
        InputError: what is given cannot be used, or a command failed, which has said why.
    """
    tests = [_parted(text, "--test") for text in recipe.test]
    for text in recipe.calibrate:
        _parted(text, "--calibrate")
    for path in (recipe.card, *(part for pair in tests for part in pair)):
        require_path(path)
        if not Path(path).exists():
            raise InputError(f"expected files and folders that are there, {path} does not exist")
    output = recipe.output
    run, averaged, packed = output / "mixture", output / "averaged.pth", output / "packed"
    start = recipe.start or _make_start(recipe)
    # train
    chosen = {"dataset.root": recipe.data, "train.output_dir": str(run), "train.init_checkpoint": start}
    words = [*recipe.overrides, *(override(key, value) for key, value in chosen.items())]
    _stage(run / FINAL, "train", "--config-file", recipe.config, "--resume", *words)
    # average and pack
    _stage(
        averaged, "average", "--before", start, "--after", run / FINAL, "--share", recipe.share, "--output", averaged
    )
    words = ["--config-file", run / "config.yaml", "--weights", averaged, "--card", recipe.card, "--output", packed]
    _stage(packed / "config.json", "pack", *words)
    # calibrate
    model = packed
    if recipe.calibrate:
        model = output / "model"
        sets = [word for text in recipe.calibrate for word in ("--set", text)]
        words = ["--model", packed, *sets, "--precision", recipe.precision, "--output", model]
        _stage(model / "config.json", "calibrate", *words)
    # evaluate
    for json_file, images in tests:
        folder = output / "evaluation" / Path(json_file).stem
        words = ["--annotations", json_file, "--images", images, "--output", folder]
        _stage(folder / "metrics.json", "evaluate", "--model", model, *words)
    atomic_write(output / "results.md", _table(output, tests).encode())
    return model


def _make_start(recipe: Recipe) -> str:
    """The detector that the training begins with, by the rows of reproduce_lite.py."""
    output = recipe.output / "start"
    run_rows(choose_rows(START_ROWS), recipe.data, output, overrides=recipe.overrides)
    return str(output / run_folder(START_ROWS[-1], 0) / FINAL)


def _stage(made: Path, *words: object) -> None:
    """Run a command of `ovdet` unless what it makes is there."""
    if made.is_file():
        print(f"done before: {made}", flush=True)
        return
    command = ["-m", "ovdet", *map(str, words)]
    print(f"python {shlex.join(command)}", flush=True)
    if subprocess.run([sys.executable, *command]).returncode:
        raise InputError(f"expected every command to succeed, got a failure of: python {shlex.join(command)}")


def _parted(text: str, option: str) -> tuple[str, str]:
    annotations, equals, images = text.rpartition("=")
    if not equals or not annotations or not images:
        raise InputError(f"expected {option} X.json=DIR, got {text!r}")
    return annotations, images


def _table(output: Path, tests: Sequence[tuple[str, str]]) -> str:
    """Markdown table of what was evaluated, in percent."""
    lines = [f"| photos | {' | '.join(METRICS)} |", "|---" * (1 + len(METRICS)) + "|"]
    for json_file, _ in tests:
        name = Path(json_file).stem
        figures = json.loads((output / "evaluation" / name / "metrics.json").read_text())["all"]
        cells = (figures.get(metric) for metric in METRICS)
        lines.append(f"| {name} | {' | '.join('-' if value is None else f'{value:.1f}' for value in cells)} |")
    return "\n".join(lines) + "\n"

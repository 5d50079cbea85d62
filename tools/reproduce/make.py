"""From data folders to the shipped default: train on several sets, average, pack, learn, calibrate, evaluate.

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
from typing import Any

from ovdet.cli.arguments import parse_set
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
        learn: "X.json=DIR" of photos from which a linear expert learns their names, see `ovdet learn`.
        calibrate: "X.json=DIR" of photos that are neither trained nor tested on; none leaves scores as they are.
            Photos of `learn` may be among them: the expert that is calibrated learns from the others alone, that of the
            model from all.
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
    learn: tuple[str, ...]
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
    tests = [parse_set(text, "--test") for text in recipe.test]
    learn = [parse_set(text, "--learn") for text in recipe.learn]
    calibrate = [parse_set(text, "--calibrate") for text in recipe.calibrate]
    for path in (recipe.card, *(part for pair in (*tests, *learn) for part in pair)):
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
    # learn and calibrate
    model = packed
    if learn and calibrate:
        model = _with_sets("learn", model, without_photos(learn, calibrate, output / "apart"), output / "learned")
    if calibrate:
        to = output / ("calibrated" if learn else "model")
        model = _with_sets("calibrate", model, calibrate, to, "--precision", recipe.precision)
    if learn:
        model = _with_sets("learn", model, learn, output / "model")
    # evaluate
    for json_file, images in tests:
        folder = output / "evaluation" / Path(json_file).stem
        words = ["--annotations", json_file, "--images", images, "--output", folder]
        _stage(folder / "metrics.json", "evaluate", "--model", model, *words)
    atomic_write(output / "results.md", _table(output, tests).encode())
    return model


def _with_sets(command: str, model: Path, sets: Sequence[tuple[str, str]], to: Path, *more: object) -> Path:
    """Run a command that makes another model folder of one, by data sets."""
    words = [word for pair in sets for word in ("--set", "=".join(pair))]
    _stage(to / "config.json", command, "--model", model, *words, *more, "--output", to)
    return to


def without_photos(
    sets: Sequence[tuple[str, str]], others: Sequence[tuple[str, str]], folder: Path
) -> list[tuple[str, str]]:
    """Data sets without the photos that are in others, too, as jsons in a folder.

    Args:
        sets: X.json and the folder of its photos, each.
        others: likewise; a photo is the same where its file is.
        folder: created.
    """
    taken = {file for json_file, images in others for file in _files(_read(json_file), images).values()}
    parts = []
    for number, (json_file, images) in enumerate(sets):
        content = _read(json_file)
        kept = {image_id for image_id, file in _files(content, images).items() if file not in taken}
        content["images"] = [image for image in content["images"] if image["id"] in kept]
        content["annotations"] = [each for each in content["annotations"] if each["image_id"] in kept]
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"{number}_{Path(json_file).name}"
        atomic_write(part, json.dumps(content).encode())
        parts.append((str(part), images))
    return parts


def _read(json_file: str) -> dict[str, Any]:
    try:
        return json.loads(Path(json_file).read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"expected COCO format in {json_file}, got: {error}") from error


def _files(content: dict[str, Any], images: str) -> dict[int, Path]:
    """The photos' files by image id."""
    return {image["id"]: (Path(images) / image["file_name"]).resolve() for image in content["images"]}


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


def _table(output: Path, tests: Sequence[tuple[str, str]]) -> str:
    """Markdown table of what was evaluated, in percent."""
    lines = [f"| photos | {' | '.join(METRICS)} |", "|---" * (1 + len(METRICS)) + "|"]
    for json_file, _ in tests:
        name = Path(json_file).stem
        figures = json.loads((output / "evaluation" / name / "metrics.json").read_text())["all"]
        cells = (figures.get(metric) for metric in METRICS)
        lines.append(f"| {name} | {' | '.join('-' if value is None else f'{value:.1f}' for value in cells)} |")
    return "\n".join(lines) + "\n"

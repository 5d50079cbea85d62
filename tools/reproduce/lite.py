"""The table of methods on small images: the commands that make it, in their order, and what they measured.

The base detector (pyramid and RPN on a frozen backbone) is trained once. Each method's ROI heads are trained on it from
scratch with the same schedule and seed, so that rows differ in the method alone. A command that finished is not run
again; one that was interrupted continues.
"""

from __future__ import annotations

import json
import re
import shlex
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from ovdet.engine.config import override
from ovdet.errors import InputError
from ovdet.evaluation.plots import figure_png
from ovdet.files import atomic_write

ROOT = Path(__file__).resolve().parents[2]  # of the repository, whose tools and configs the commands name
BASE_DETECTOR = "base_detector"  # all other rows stand on its weights
FINAL = "model_final.pth"
COLUMNS = (("base", "AP50"), ("novel", "AP50"), ("all", "AP50"), ("all", "AP"))


@dataclass(frozen=True)
class Row:
    """A row of the table: a config that is trained, or another row's weights scored differently.

    Attributes:
        config: configs/lite/{config}.py.
        method: its name in the table.
        scores: "" for a row that is trained; else the row with whose weights this one only scores differently.
        share: of those weights, if they are averaged with the base detector's before.
    """

    config: str
    method: str
    scores: str = ""
    share: float = 1.0

    @property
    def name(self) -> str:
        """The row's name on the command line, and its folder's."""
        return self.config if self.share == 1 else f"{self.config}_averaged"


ROWS = (
    Row(BASE_DETECTOR, "base detector: ViLD-text + the frozen classifier on regions"),
    Row("closed_set", "supervised, base classes only"),
    Row("vild_text", "ViLD-text"),
    Row("vild_image", "ViLD-image"),
    Row("vild", "ViLD"),
    Row("vild_ensemble", "ViLD-ensemble"),
    Row("rcnn_style", "R-CNN style: the teacher on crops", scores="vild_text"),
    Row("vild_text_teacher", "ViLD-text + the teacher on crops and in the photo", scores="vild_text"),
    Row("ovdet_lite", "the base detector's backbone adapts too, distilled"),
    Row("ovdet_lite", "ovdet-lite: the same, averaged with the base detector", scores="ovdet_lite", share=0.7),
)

OBJECTIVES = (  # docs/objectives.md; beside vild_text and vild, on which they stand
    Row("distill_cosine", "ViLD, cosine"),
    Row("distill_contrast", "ViLD, contrast"),
    Row("distill_relations", "ViLD, relations"),
    Row("lit", "ViLD, locked towers (LiT)"),
    Row("devise", "ViLD-text + DeViSE"),
    Row("clip", "ViLD-text + CLIP"),
    Row("filip", "ViLD-text + FILIP"),
    Row("unicl", "ViLD-text + UniCL"),
    Row("slip", "ViLD-text + SLIP"),
    Row("declip", "ViLD-text + DeCLIP"),
)


def choose_rows(names: Sequence[str]) -> list[Row]:
    """Rows by name, in the order of ROWS and OBJECTIVES; ROWS for no names, OBJECTIVES for "objectives".

    Raises:
        InputError: there is no such row.
    """
    if not names:
        return list(ROWS)
    rows = (*ROWS, *OBJECTIVES)
    known = [*(row.name for row in rows), "objectives"]
    odd = [name for name in names if name not in known]
    if odd:
        raise InputError(f"expected rows out of {', '.join(known)}, got {', '.join(odd)}")
    return [row for row in rows if row.name in names or (row in OBJECTIVES and "objectives" in names)]


def run_rows(
    rows: Sequence[Row],
    data: str,
    output: str | Path,
    *,
    seed: int = 0,
    start: str = "",
    overrides: Sequence[str] = (),
) -> None:
    """Train and evaluate rows, one command after the other; their output goes to the terminal.

    Args:
        rows: see choose_rows.
        data: the folder of photos and annotations, `dataset.root` of configs/lite.
        output: everything goes below it, a folder for each seed and row.
        seed: of the training.
        start: a detector, as `train.init_checkpoint` takes it, in place of the base detector's row.
        overrides: `key=value` for all configs, such as train.max_iter=100.

    Raises:
        InputError: a command failed, which has said why.
    """
    output = Path(output)
    for row in rows:
        run = output / run_folder(row.name, seed)
        if (run / "evaluation/metrics.json").is_file():
            continue
        is_trained = (run / FINAL).is_file()
        weights: str | Path = (run if is_trained else output / run_folder(row.scores or BASE_DETECTOR, seed)) / FINAL
        if start and not row.scores and not is_trained:
            weights = start
        elif row.config != BASE_DETECTOR and not weights.is_file():
            raise InputError(f"expected the row {weights.parent.name} before {row.name}, {weights} does not exist")
        if row.share < 1 and not is_trained:
            run.mkdir(parents=True, exist_ok=True)
            average = ["--before", output / BASE_DETECTOR / FINAL, "--after", weights]
            _run("average_weights.py", *average, "--share", row.share, "--output", run / FINAL)
            weights = run / FINAL
        words = ["--config-file", ROOT / f"configs/lite/{row.config}.py"]
        words.append("--eval-only" if row.scores or is_trained else "--resume")
        words += [override("dataset.root", data), f"train.seed={seed}", override("train.output_dir", str(run))]
        if is_trained or row.config != BASE_DETECTOR:
            words.append(override("train.init_checkpoint", str(weights)))
        _run("train_net.py", *words, *overrides)


def _run(tool: str, *words: object) -> None:
    command = [str(ROOT / "tools" / tool), *map(str, words)]
    if subprocess.run([sys.executable, *command]).returncode:
        raise InputError(f"expected every command to succeed, got a failure of: python {shlex.join(command)}")


def run_folder(name: str, seed: int | str) -> str:
    """Folder of a row's run below the output folder; "*" for all seeds, which share one base detector."""
    return BASE_DETECTOR if name == BASE_DETECTOR else f"seed_{seed}/{name}"


def table(output: str | Path) -> str:
    """Markdown table of the AP measured below a folder of `run_rows`; several seeds as mean and spread."""
    lines = [
        "| method | base AP50 | novel AP50 | all AP50 | all AP | s / photo | seeds |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in (*ROWS, *OBJECTIVES):
        runs = _files_of(output, row, "evaluation/metrics.json")
        found = [json.loads(run.read_text()) for run in runs]
        if not found:
            continue
        cells = [_spread([each[subset][figure] for each in found]) for subset, figure in COLUMNS]
        seconds = [_seconds(run.parents[1]) for run in runs]
        seconds = [value for value in seconds if value is not None]
        cells.append(f"{statistics.median(seconds):.2f}" if seconds else "-")
        lines.append(f"| {row.method} | {' | '.join(cells)} | {len(found)} |")
    return "\n".join(lines) + "\n"


def _files_of(output: str | Path, row: Row, file: str) -> list[Path]:
    """A file of each run of a row, by seed."""
    return sorted(Path(output).glob(f"{run_folder(row.name, '*')}/{file}"))


def _spread(values: Sequence[float | None]) -> str:
    values = [value for value in values if value is not None]  # of a subset without objects
    if not values:
        return "-"
    middle = f"{statistics.mean(values):.1f}"
    return middle if len(values) < 2 else f"{middle} ({min(values):.1f} to {max(values):.1f})"


def _seconds(run: Path) -> float | None:
    """Seconds per image as logged by the evaluation, by itself or at the end of training."""
    logs = [file for file in (run / "log.txt", run / "evaluation/log.txt") if file.is_file()]
    text = "".join(file.read_text(encoding="utf-8") for file in logs)
    found = re.findall(r"(\d+) photos in ([\d.]+) s:", text)
    return float(found[-1][1]) / int(found[-1][0]) if found else None


def draw_learning_curves(output: str | Path) -> bytes:
    """Plot the losses of each row over the steps, smoothed.

    Returns:
        A PNG.
    """
    figure = Figure(figsize=(9, 6), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True)
    kinds = ("loss_cls", "loss_distill", "loss_box_reg", "loss_rpn_cls")
    for axes, kind in zip(panels.flat, kinds, strict=True):
        axes.set_title(kind, fontsize=10)
        axes.grid(alpha=0.25)
        for row in (*ROWS, *OBJECTIVES):
            for run in _files_of(output, row, "metrics.json")[:1]:
                steps, values = _curve(run, kind)
                if steps:
                    axes.plot(steps, values, label=row.name, linewidth=1.2)
        if axes.lines:
            axes.legend(fontsize=7)
    for axes in panels[1]:
        axes.set_xlabel("step")
    return figure_png(figure)


def _curve(file: Path, kind: str, window: int = 5) -> tuple[list[int], list[float]]:
    """Steps and smoothed values of a loss in a run's metrics.json."""
    rows = [json.loads(line) for line in file.read_text().splitlines() if line.strip()]
    rows = sorted({row["iteration"]: row for row in rows if kind in row}.values(), key=lambda row: row["iteration"])
    values = [row[kind] for row in rows]
    half = window // 2
    smooth = [statistics.mean(values[max(i - half, 0) : i + half + 1]) for i in range(len(values))]
    return [row["iteration"] for row in rows], smooth


def write_results(output: str | Path) -> str:
    """Write results.md and learning_curves.png into the folder; return the table."""
    text = table(output)
    atomic_write(Path(output) / "results.md", text.encode())
    atomic_write(Path(output) / "learning_curves.png", draw_learning_curves(output))
    return text

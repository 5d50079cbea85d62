"""Time of scoring regions for up to a million names: to the best candidates, and on to detections.

Shape letters: R regions of one image, K classes, D embedding width.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import torch
import torch.nn.functional as F
from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference
from matplotlib.figure import Figure
from torch import Tensor

from ovdet.benchmarks.timing import Row, compare
from ovdet.class_embeddings import ClassEmbeddings
from ovdet.device import choose_device
from ovdet.errors import InputError
from ovdet.evaluation.plots import figure_png
from ovdet.files import atomic_write
from ovdet.memory import give_back_freed_memory
from ovdet.modeling.large_vocabulary import chunk_size
from ovdet.modeling.postprocess import TopK, postprocess_image
from ovdet.modeling.region_detection import build_topk
from ovdet.modeling.score_fusion import TextScores
from ovdet.modeling.scoring import MAX_DENSE_ROWS, RegionScorer
from ovdet.modeling.text_classifier import TextClassifier
from ovdet.modeling.topk import Candidates
from ovdet.progress import track

SIZES = (1, 80, 1203, 10_000, 100_000, 1_000_000)
WIDTH = 512
IMAGE_SIZE = (800, 1216)
THRESHOLD, NMS_THRESHOLD, DETECTIONS, CANDIDATES = 1e-4, 0.5, 300, 1001
DENSE_ENTRIES, NMS_ENTRIES = 40_000_000, 4_000_000  # R x K up to which the peers are asked


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options: sizes, the device and a picture."""
    parser.add_argument("--regions", type=int, default=300, metavar="R", help="regions of the image (default: 300)")
    parser.add_argument("--largest", type=int, default=SIZES[-1], metavar="K", help=f"of {', '.join(map(str, SIZES))}")
    parser.add_argument("--half", action="store_true", help="keep the vocabulary in float16")
    parser.add_argument("--device", default="cpu", help="default: cpu")
    parser.add_argument("--picture", metavar="F.png", help="plot seconds over the number of classes")


def run(arguments: argparse.Namespace) -> list[Row]:
    """Two rows per number of classes; the lower bound is the bare product of regions and classes.

    Raises:
        InputError: sizes below 1, or a device that is not here.
    """
    if arguments.regions < 1 or arguments.largest < 1:
        raise InputError(
            f"expected --regions and --largest of at least 1, got {arguments.regions}, {arguments.largest}"
        )
    device = choose_device(arguments.device)
    sizes = [size for size in SIZES if size <= arguments.largest]
    rows = []
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        dtype = torch.float16 if arguments.half else torch.float32
        vocabulary = map_random_rows(Path(folder) / "vocabulary", sizes[-1], dtype)
        for size in sizes:
            rows += time_size(vocabulary[:size], arguments.regions, arguments.rounds, device)
    if arguments.picture:
        draw(sizes, rows, arguments.picture)
    return rows


def map_random_rows(path: Path, number: int, dtype: torch.dtype) -> Tensor:
    """Random unit vectors (number, D) in a file that is mapped into memory."""
    matrix = torch.from_file(str(path), shared=True, size=number * WIDTH, dtype=dtype).view(number, WIDTH)
    generator = torch.Generator().manual_seed(0)
    for rows in track(matrix.split(50_000), "drawing a vocabulary", transient=True, disable=number < 200_000):
        rows.copy_(F.normalize(torch.randn(len(rows), WIDTH, generator=generator), dim=1))
    return matrix


def time_size(vocabulary: Tensor, regions: int, rounds: int, device: torch.device) -> list[Row]:
    """Rows of candidates and of detections for (K, D) class embeddings."""
    image = _Image(vocabulary, regions, device)
    entries, name = regions * len(vocabulary), f"{len(vocabulary)} classes x {regions} regions"
    extra = peak_memory(image.candidates)
    told = "" if extra is None or device.type != "cpu" else f", {extra / 2**20:.0f} MiB"
    return [
        compare(
            f"{name}: candidates{told}",
            image.candidates,
            peer=("softmax, topk", image.topk) if entries <= DENSE_ENTRIES else None,
            limit=image.product,
            rounds=rounds,
            device=device,
        ),
        compare(
            f"{name}: detections",
            image.detections,
            peer=("softmax, fast_rcnn_inference", image.detectron2s) if entries <= NMS_ENTRIES else None,
            limit=image.product,
            rounds=rounds,
            device=device,
        ),
    ]


class _Image:
    """Random regions of one image, and the ways to score them."""

    def __init__(self, vocabulary: Tensor, regions: int, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(1)
        torch.manual_seed(1)
        self.classifier = TextClassifier(WIDTH).to(device)
        self.classes = ClassEmbeddings.of(vocabulary.to(device), [str(k) for k in range(len(vocabulary))]).to(device)
        self.embeddings = F.normalize(torch.randn(regions, WIDTH, generator=generator), dim=1).to(device)  # (R, D)
        corners = torch.rand(regions, 2, generator=generator) * 600
        sides = 20 + 150 * torch.rand(regions, 2, generator=generator)
        self.boxes = torch.cat([corners, corners + sides], dim=1).to(device)
        self.objectness = torch.zeros(regions, device=device)
        self.chunk_size = chunk_size(regions, WIDTH)

    def _topk(self) -> TopK:
        scorer = RegionScorer(self.classifier.branch(self.embeddings), None, self.objectness, TextScores())
        return build_topk(self, scorer, self.classes)

    max_dense_rows, class_agnostic_nms = MAX_DENSE_ROWS, False  # as ROI heads have them

    def candidates(self) -> Candidates:
        return self._topk()(THRESHOLD, CANDIDATES)

    def detections(self) -> object:
        thresholds = dict(score_threshold=THRESHOLD, nms_threshold=NMS_THRESHOLD, max_detections=DETECTIONS)
        return postprocess_image(self._topk(), self.boxes, IMAGE_SIZE, **thresholds)

    def product(self) -> None:
        for classes in self.classes.embeddings.split(self.chunk_size):
            self.embeddings @ classes.to(self.embeddings).t()

    def topk(self) -> object:
        scores = self.classifier(self.embeddings, self.classes.embeddings).softmax(dim=1)[:, :-1].flatten()
        return scores.topk(min(CANDIDATES, len(scores)))

    def detectron2s(self) -> object:
        scores = self.classifier(self.embeddings, self.classes.embeddings).softmax(dim=1)
        return fast_rcnn_inference([self.boxes], [scores], [IMAGE_SIZE], THRESHOLD, NMS_THRESHOLD, DETECTIONS)


def peak_memory(function: Callable[[], object]) -> int | None:
    """Bytes by which the process grows at most while a function runs; None where the system does not tell.

    What is mapped from files is not counted: the system takes it back where memory is short.
    """
    process = psutil.Process()
    if not hasattr(process.memory_info(), "shared"):  # as on Linux
        return None

    def in_use() -> int:
        memory = process.memory_info()
        return memory.rss - memory.shared

    def watch() -> None:
        while not done.wait(0.001):
            seen.append(in_use())

    give_back_freed_memory()  # what is used again would not count
    before, seen, done = in_use(), [], threading.Event()
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        function()
    finally:
        done.set()
        watcher.join()
    return max([*seen, in_use()]) - before


def draw(sizes: list[int], rows: list[Row], path: str) -> None:
    """Plot milliseconds over K, both axes logarithmic.

    Raises:
        InputError: the place cannot be written to.
    """
    candidates, detections = rows[::2], rows[1::2]
    figure = Figure(figsize=(8, 5.5), layout="constrained")
    axes = figure.add_subplot(xlabel="classes", ylabel="milliseconds per image", xscale="log", yscale="log")
    lines = {
        "detectron2: softmax, fast_rcnn_inference": ([row.peer_s for row in detections], "tab:red", "s"),
        "ours: detections": ([row.ours_s for row in detections], "tab:blue", "o"),
        "ours: candidates": ([row.ours_s for row in candidates], "tab:cyan", "o"),
        "limit: the bare product of regions and classes": ([row.limit_s for row in candidates], "tab:gray", "."),
    }
    for label, (seconds, color, marker) in lines.items():
        told = [(size, 1e3 * value) for size, value in zip(sizes, seconds, strict=True) if value is not None]
        axes.plot(*zip(*told, strict=True), color=color, marker=marker, label=label)
    axes.set_title(f"From region embeddings to detections ({rows[0].device})", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend()
    atomic_write(path, figure_png(figure))

"""Few-shot protocol: k boxes a class from one half of the photos, average precision on the other half.

What is compared is ways to ask for the same classes with the same detector: by name, by exemplars, by learned rows.

Shape letters: K classes, G annotated boxes of a photo, D embedding width.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from tabulate import tabulate
from torch import Tensor

from ovdet.class_embeddings import ClassEmbeddings
from ovdet.device import float32_by_default
from ovdet.errors import InputError
from ovdet.evaluation.average_precision import CocoAP
from ovdet.evaluation.ground_truth import GroundTruth, load_ground_truth
from ovdet.evaluation.thresholds import choose_threshold, match_detections
from ovdet.files import atomic_write, make_folder
from ovdet.inference.predictor import EmbeddedPhoto, OpenVocabPredictor
from ovdet.learning.examples import LabeledRegions, join_regions, labeled_regions
from ovdet.learning.learn import AnnotatedPhoto, check_learner, fit_classes, max_background, read_examples, with_names
from ovdet.learning.probe import BACKGROUND, IGNORED
from ovdet.progress import show_progress
from ovdet.text.class_names import normalize_class_name
from ovdet.typed import decoded

RESULTS_FILE, TABLE_FILE, PICTURE_FILE = "few_shot.json", "few_shot.csv", "few_shot.png"
TEXT, LEARNED, BOTH = "text", "learned", "learned + text"
_HELD = 3  # of so many photos one is held out by `compare`


class Result(msgspec.Struct, frozen=True):
    """Figures of one way to ask; text needs no examples and no seed: 0 and 0.

    Attributes:
        AP: percent, mean over the classes, as AP50.
        F1: percent, the best that one threshold for all classes gives.
        threshold: this one; None where nothing is found.
    """

    method: str
    shots: int
    seed: int
    AP: float
    AP50: float
    F1: float
    threshold: float | None


class _Results(msgspec.Struct):
    """The file of results, and what they hang on."""

    detector: str
    classes: list[str]
    photos: list[int]  # that examples are drawn from, that figures are of
    results: list[Result]


class Half(NamedTuple):
    """Photos with regions that are ready: of each photo the regions of its objects, labeled by object."""

    photos: list[AnnotatedPhoto]
    regions: list[LabeledRegions]  # labels are places of boxes in the photo, or BACKGROUND


def usable_classes(
    names: Sequence[str], halves: Sequence[Sequence[AnnotatedPhoto]]
) -> tuple[list[int], list[list[AnnotatedPhoto]]]:
    """Classes that have a box in each part of the photos, and the parts with these as class ids 0, 1, ...

    Raises:
        InputError: there is none.
    """
    found = [{int(index) for photo in half for index in photo.class_ids.tolist() if index >= 0} for half in halves]
    kept = sorted(set.intersection(*found))
    if not kept:
        counts = " and ".join(str(len(half)) for half in halves)
        raise InputError(
            f"expected a class with boxes in both parts of the photos ({counts}), got none of {len(names)}"
        )
    place = {index: position for position, index in enumerate(kept)}
    return kept, [[photo._replace(class_ids=_looked_up(photo.class_ids, place)) for photo in half] for half in halves]


def _looked_up(class_ids: Tensor, place: Mapping[int, int]) -> Tensor:
    return torch.tensor([place.get(index, IGNORED) for index in class_ids.tolist()], dtype=torch.long)


def draw_shots(photos: Sequence[AnnotatedPhoto], num_classes: int, shots: int, seed: int) -> dict[int, Tensor]:
    """k boxes of each class: photos in a random order, until all classes have k boxes or all that there are.

    Args:
        photos: with class ids below `num_classes`, or IGNORED.
        num_classes: K.
        shots: k.
        seed: of the order.

    Returns:
        By place of a photo its class ids (G,); boxes beyond k are IGNORED, neither examples nor background.
    """
    order = torch.randperm(len(photos), generator=torch.Generator().manual_seed(seed)).tolist()
    left, drawn = [shots] * num_classes, {}
    for class_id in range(num_classes):
        for place in order:
            ids = photos[place].class_ids
            if left[class_id] <= 0:
                break
            if place in drawn or not (ids == class_id).any():
                continue
            drawn[place] = ids.clone()
            for box, index in enumerate(ids.tolist()):
                if index >= 0 and left[index] <= 0:
                    drawn[place][box] = IGNORED
                elif index >= 0:
                    left[index] -= 1
    return drawn


def relabeled(half: Half, drawn: Mapping[int, Tensor], seed: int) -> LabeledRegions:
    """Regions of the drawn photos by class instead of by object, and as much background as `learn_classes` takes."""
    generator, most = torch.Generator().manual_seed(seed), 2 * max_background(len(drawn))
    parts = []
    for place, class_ids in drawn.items():
        regions = half.regions[place]
        labels = torch.cat([class_ids, torch.tensor([BACKGROUND])])[regions.labels]  # -1 is the last
        background = (labels == BACKGROUND).nonzero().squeeze(1)
        background = background[torch.randperm(len(background), generator=generator)[:most]]
        kept = torch.cat([(labels >= 0).nonzero().squeeze(1), background])
        parts.append(LabeledRegions(regions.features[kept], labels[kept], regions.weights[kept]))
    return join_regions(parts)


class Figures(NamedTuple):
    """See `Result`."""

    AP: float
    AP50: float
    F1: float
    threshold: float | None


class HeldOut:
    """Photos that are asked for classes again and again: regions are embedded once."""

    def __init__(
        self, predictor: OpenVocabPredictor, photos: Sequence[AnnotatedPhoto], truth: GroundTruth, names: Sequence[str]
    ) -> None:
        """
        Args:
            predictor: a trained detector.
            photos: with image ids of `truth`.
            truth: of the json.
            names: of the classes that are scored, each one of the json's.
        """
        ids = {normalize_class_name(name): category_id for category_id, name in truth.names.items()}
        self.category_ids = [ids[normalize_class_name(name)] for name in names]
        self._places = {normalize_class_name(name): place for place, name in enumerate(names)}
        self._predictor, self._photos, self._truth = predictor, photos, truth
        self._embedded: list[EmbeddedPhoto] = []

    def embed(self) -> Iterator[int]:
        """Embed photo after photo; yields 1 each."""
        for photo in self._photos:
            self._embedded.append(self._predictor.embed_photo(photo.image))
            yield 1

    @torch.no_grad()
    def score(self, classes: ClassEmbeddings) -> Figures:
        """Average precision, and the best F1 of one threshold for all classes."""
        scorer = CocoAP(self._truth, self.category_ids, image_ids=[photo.image_id for photo in self._photos])
        place = torch.tensor([self._places[normalize_class_name(name)] for name in classes.names])
        matched: list[tuple[np.ndarray, np.ndarray]] = []
        for photo, embedded in zip(self._photos, self._embedded, strict=True):
            (output,) = self._predictor.model.score_images([embedded.seen], [embedded.size], classes=classes)
            found = output["instances"].to("cpu")
            found.pred_classes = place[found.pred_classes]
            rows = instances_to_coco_json(found, photo.image_id)
            for row in rows:
                row["category_id"] = self.category_ids[row["category_id"]]
            scorer.add({photo.image_id: rows})
            matched += [self._matched(photo.image_id, category_id, rows) for category_id in self.category_ids]
        result = scorer.result()
        scores, hits = (np.concatenate(each) for each in zip(*matched, strict=True))
        threshold, precision, recall = choose_threshold(scores[hits >= 0], hits[hits >= 0], int(result.objects.sum()))
        f1 = 200 * precision * recall / max(precision + recall, 1e-9)
        means = (float(np.nanmean(result.figures[metric])) for metric in ("AP", "AP50"))
        return Figures(*means, f1, None if np.isnan(threshold) else threshold)

    def _matched(
        self, image_id: Any, category_id: int, rows: Sequence[Mapping[str, Any]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores of a class's detections on a photo, and which of them find an object."""
        of_class = [row for row in rows if row["category_id"] == category_id]
        there = [each for each in self._truth.annotations.get(image_id, ()) if each["category_id"] == category_id]
        scores, crowds = [row["score"] for row in of_class], [int(each.get("iscrowd") or 0) for each in there]
        hits = match_detections([row["bbox"] for row in of_class], scores, [each["bbox"] for each in there], crowds)
        return np.asarray(scores, dtype=float), hits


def embed_half(predictor: OpenVocabPredictor, photos: Sequence[AnnotatedPhoto], half: Half) -> Iterator[int]:
    """Fill `half` photo after photo; yields 1 each. The background is drawn by the photo's place."""
    for place, photo in enumerate(photos):
        generator = torch.Generator().manual_seed(place)
        objects, most = torch.arange(len(photo.boxes)), max_background(1)
        inputs = predictor.prepare(photo.image)
        regions = labeled_regions(
            predictor.model, inputs, photo.boxes, objects, max_background=most, generator=generator
        )
        half.photos.append(photo)
        half.regions.append(regions)
        yield 1


@float32_by_default()
def few_shot(
    predictor: OpenVocabPredictor,
    annotations: str | Path,
    images: str | Path,
    output: str | Path,
    *,
    shots: Sequence[int] = (1, 3, 5, 10, 30),
    seeds: int = 5,
    max_photos: int = 400,
    tell: Callable[[str], None] = print,
) -> list[Result]:
    """Run the protocol; `output` gets few_shot.json, a table and a picture. A run that was ended goes on where it was.

    Every second photo of the json, in the order of its ids, is held out for the figures; examples are drawn from the
    others. Classes without a box in one of the halves are left out.

    Args:
        predictor: a trained detector.
        annotations: COCO-format json whose photos show all boxes of its classes.
        images: the folder that its photos' names are relative to.
        output: folder, made where there is none.
        shots: each k, boxes a class; a class with fewer has all of its boxes.
        seeds: how many draws of each k.
        max_photos: of each half, at most: regions are kept in memory, 2 MB a photo.
        tell: gets a line a seed.

    Raises:
        InputError: data or detector cannot be used, or the folder has results of others.
    """
    if not shots or min(shots) < 1 or seeds < 1:
        raise InputError(f"expected at least 1 box a class and 1 seed, got {list(shots)} and {seeds}")
    check_learner(predictor.model)
    # data
    all_names, photos = read_examples(annotations, images)
    kept, (drawn_from, held) = usable_classes(all_names, [photos[1::2][:max_photos], photos[0::2][:max_photos]])
    names = [all_names[index] for index in kept]
    make_folder(output)
    file = Path(output) / RESULTS_FILE
    state = _read(file, _Results(predictor.fingerprint, names, [len(drawn_from), len(held)], []))
    wanted = [(seed, shot) for seed in range(seeds) for shot in sorted(set(shots))]
    done = {(result.seed, result.shots) for result in state.results}
    missing = [each for each in wanted if each not in done]
    if missing:
        # regions, once
        held_out = HeldOut(predictor, held, load_ground_truth(annotations), names)
        half = Half([], [])
        show_progress("reading photos", held_out.embed(), len(held))
        show_progress("reading examples", embed_half(predictor, drawn_from, half), len(drawn_from))
        if not any(result.method == TEXT for result in state.results):
            figures = held_out.score(predictor.embed(names, negatives=()))
            state.results.append(Result(TEXT, 0, 0, *figures))
        for seed, shot in missing:
            drawn = draw_shots(drawn_from, len(names), shot, seed)
            for method, classes in ways_to_ask(predictor, names, half, drawn, seed):
                state.results.append(Result(method, shot, seed, *held_out.score(classes)))
            atomic_write(file, msgspec.json.format(msgspec.json.encode(state)))
            tell(f"seed {seed}, {shot} a class: " + _line(state.results, shot, seed))
    results = [each for each in state.results if each.method == TEXT or (each.seed, each.shots) in wanted]
    atomic_write(Path(output) / TABLE_FILE, as_csv(results).encode())
    atomic_write(
        Path(output) / PICTURE_FILE, draw_few_shot(results, f"{Path(annotations).parent.name}: {len(names)} classes")
    )
    return results


def ways_to_ask(
    predictor: OpenVocabPredictor, names: Sequence[str], half: Half, drawn: Mapping[int, Tensor], seed: int
) -> Iterator[tuple[str, ClassEmbeddings]]:
    """The drawn examples as classes, by each method."""
    regions = relabeled(half, drawn, seed)
    classes = fit_classes(predictor.model, names, regions, predictor.fingerprint)
    yield LEARNED, classes
    yield BOTH, with_names(predictor.model, classes, regions, predictor.name_embeddings(names))


def _read(file: Path, new: _Results) -> _Results:
    """The results of an earlier run of the same, or the new ones.

    Raises:
        InputError: they are of another detector or of other data.
    """
    if not file.is_file():
        return new
    found = decoded(file.read_bytes(), _Results, "results of the few-shot protocol", file)
    for key in ("detector", "classes", "photos"):
        if getattr(found, key) != getattr(new, key):
            raise InputError(f"expected another --output, {file} has results of other {key}")
    return found


def _line(results: Iterable[Result], shot: int, seed: int) -> str:
    return ", ".join(
        f"{r.method} {r.AP50:.1f}"
        for r in results
        if r.shots in (0, shot) and r.seed in (0, seed) and (r.method == TEXT or r.seed == seed)
    )


def summary(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Mean and spread (standard deviation over the seeds) of each method and k, text first."""
    groups: dict[tuple[str, int], list[Result]] = {}
    for result in results:
        groups.setdefault((result.method, result.shots), []).append(result)
    rows = []
    for (method, shots), members in sorted(groups.items(), key=lambda item: (item[0][1], item[0][0])):
        thresholds = [member.threshold for member in members if member.threshold is not None]
        row: dict[str, Any] = {"method": method, "shots": shots, "seeds": len(members)}
        for metric in ("AP50", "AP", "F1"):
            values = [getattr(member, metric) for member in members]
            row |= {metric: float(np.mean(values)), f"{metric} spread": float(np.std(values))}
        rows.append({**row, "threshold": float(np.mean(thresholds)) if thresholds else None})
    return rows


def as_table(results: Sequence[Result]) -> str:
    """The summary as a table for people."""
    columns = ("AP50", "AP", "F1")
    cells = [
        [
            row["method"],
            row["shots"] or "-",
            *(f"{row[key]:.1f} ± {row[f'{key} spread']:.1f}" for key in columns),
            "-" if row["threshold"] is None else f"{row['threshold']:.2f}",
        ]
        for row in summary(results)
    ]
    return tabulate(cells, headers=["", "boxes a class", *columns, "at threshold"])


def as_csv(results: Sequence[Result]) -> str:
    """The summary as csv."""
    stream = io.StringIO()
    rows = summary(results)
    writer = csv.DictWriter(stream, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()} for row in rows
    )
    return stream.getvalue()


def draw_few_shot(results: Sequence[Result], title: str) -> bytes:
    """AP50 over boxes a class, a line with error bars for each method; a PNG."""
    from matplotlib.figure import Figure

    from ovdet.evaluation.plots import figure_png

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel="boxes a class", ylabel="AP50, percent, mean and spread over seeds", xscale="log")
    axes.set_title(title, fontsize=10)
    rows = summary(results)
    shots = sorted({row["shots"] for row in rows if row["shots"]})
    for method in dict.fromkeys(row["method"] for row in rows):
        of_method = [row for row in rows if row["method"] == method]
        if method == TEXT:
            axes.axhline(of_method[0]["AP50"], color="#222222", linestyle="--", label=TEXT)
            continue
        columns = ([row[key] for row in of_method] for key in ("shots", "AP50", "AP50 spread"))
        x, y, spread = columns
        axes.errorbar(x, y, yerr=spread, marker="o", capsize=3, label=method)
    axes.set_xticks(shots, [str(shot) for shot in shots])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    axes.legend()
    return figure_png(figure)


@float32_by_default()
def compare(
    predictor: OpenVocabPredictor,
    annotations: str | Path,
    names: Sequence[str],
    photos: Sequence[AnnotatedPhoto],
) -> list[Result]:
    """AP of names alone, examples alone and both on every third photo, after learning from the others.

    Args:
        predictor: a trained detector.
        annotations: the COCO-format json of the photos.
        names: of the classes of the photos, each one of the json's.
        photos: at least 2, as of `read_examples`.

    Raises:
        InputError: too few photos, or no class with boxes on both sides.
    """
    check_learner(predictor.model)
    if len(photos) < 2:
        raise InputError(f"expected two photos or more to compare on some of them, got {len(photos)}")
    held = photos[_HELD - 1 :: _HELD] or photos[1:2]
    chosen = {id(photo) for photo in held}
    rest = [photo for photo in photos if id(photo) not in chosen]
    kept, (rest, held) = usable_classes(names, [rest, held])
    names = [names[index] for index in kept]
    held_out, half = HeldOut(predictor, held, load_ground_truth(annotations), names), Half([], [])
    show_progress("reading photos", held_out.embed(), len(held))
    show_progress("reading examples", embed_half(predictor, rest, half), len(rest))
    most = max(int(torch.cat([photo.class_ids for photo in rest]).clamp(min=0).bincount().max()), 1)
    results = [Result(TEXT, 0, 0, *held_out.score(predictor.embed(names, negatives=())))]
    for method, classes in ways_to_ask(predictor, names, half, {i: p.class_ids for i, p in enumerate(rest)}, 0):
        results.append(Result(method, most, 0, *held_out.score(classes)))
    return results

"""Few-shot protocol: k boxes a class from one half of the photos, average precision on the other half.

What is compared is ways to ask for the same classes: by name, by learned rows, by both, and after fine-tuning.

Shape letters: K classes, G annotated boxes of a photo.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import torch
from torch import Tensor

from ovdet.class_embeddings import ClassEmbeddings
from ovdet.device import float32_by_default
from ovdet.errors import InputError
from ovdet.evaluation.ground_truth import GroundTruth, load_ground_truth
from ovdet.files import atomic_write, check_place
from ovdet.inference.few_shot_report import TEXT, Result, as_csv, draw_few_shot
from ovdet.inference.fine_tuning import FineTuning
from ovdet.inference.held_out import HeldOut
from ovdet.inference.predictor import OpenVocabPredictor
from ovdet.learning.examples import LabeledRegions, join_regions, labeled_regions
from ovdet.learning.learn import AnnotatedPhoto, check_learner, fit_classes, max_background, read_examples, with_names
from ovdet.learning.probe import BACKGROUND, IGNORED
from ovdet.progress import show_progress
from ovdet.typed import decoded

RESULTS_FILE, TABLE_FILE, PICTURE_FILE = "few_shot.json", "few_shot.csv", "few_shot.png"
LEARNED, BOTH = "learned", "learned + text"
_HELD = 3  # of so many photos one is held out by `compare`


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


def _read_photos(
    predictor: OpenVocabPredictor,
    held: Sequence[AnnotatedPhoto],
    rest: Sequence[AnnotatedPhoto],
    truth: GroundTruth,
    names: Sequence[str],
) -> tuple[HeldOut, Half]:
    """The regions of all photos, behind progress bars."""
    held_out, half = HeldOut(predictor, held, truth, names), Half([], [])
    show_progress("reading photos", held_out.embed(), len(held))
    show_progress("reading examples", embed_half(predictor, rest, half), len(rest))
    return held_out, half


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
    fine_tuning: FineTuning | None = None,
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
        fine_tuning: also train on the photos that examples are drawn from, on all of their boxes: a box that is there
            and not trained on would be background.
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
    check_place(output, is_folder=True)
    file = Path(output) / RESULTS_FILE
    state = _read(file, _Results(predictor.fingerprint, names, [len(drawn_from), len(held)], []))
    # what is asked for, and what of it is missing
    methods = [LEARNED, BOTH, *([fine_tuning.method] if fine_tuning else [])]
    wanted = [(method, seed, k) for seed in range(seeds) for k in sorted(set(shots)) for method in methods]
    done = {(result.method, result.seed, result.shots) for result in state.results}
    missing = [each for each in wanted if each not in done]
    if missing:
        truth = load_ground_truth(annotations)
        held_out, half = _read_photos(predictor, held, drawn_from, truth, names)
        if (TEXT, 0, 0) not in done:
            state.results.append(Result(TEXT, 0, 0, *held_out.score(predictor.embed(names, negatives=()))))
        for seed, k in dict.fromkeys((seed, k) for _, seed, k in missing):
            drawn = draw_shots(drawn_from, len(names), k, seed)
            if (BOTH, seed, k) in missing:
                for method, classes in ways_to_ask(predictor, names, half, drawn, seed):
                    state.results.append(Result(method, k, seed, *held_out.score(classes)))
            if fine_tuning and (fine_tuning.method, seed, k) in missing:
                tuned = fine_tuning([drawn_from[place] for place in drawn], held, names, truth, seed)
                again = HeldOut(tuned, held, truth, names)
                show_progress("reading photos", again.embed(), len(held))
                figures = again.score(tuned.embed(names, negatives=()))
                state.results.append(Result(fine_tuning.method, k, seed, *figures))
            atomic_write(file, msgspec.json.format(msgspec.json.encode(state)))
            tell(f"seed {seed}, {k} a class: " + _line(state.results, k, seed))
    results = [each for each in state.results if each.method == TEXT or (each.method, each.seed, each.shots) in wanted]
    atomic_write(Path(output) / TABLE_FILE, as_csv(results).encode())
    title = f"{Path(annotations).parent.name}: {len(names)} classes"
    atomic_write(Path(output) / PICTURE_FILE, draw_few_shot(results, title))
    return results


def ways_to_ask(
    predictor: OpenVocabPredictor, names: Sequence[str], half: Half, drawn: Mapping[int, Tensor], seed: int
) -> Iterator[tuple[str, ClassEmbeddings]]:
    """The drawn examples as classes, by each method."""
    regions = relabeled(half, drawn, seed)
    classes = fit_classes(predictor.model, names, regions, predictor.fingerprint)
    yield LEARNED, classes
    yield BOTH, with_names(classes, regions, predictor.name_embeddings(names))


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
    held_out, half = _read_photos(predictor, held, rest, load_ground_truth(annotations), names)
    most = max(int(torch.cat([photo.class_ids for photo in rest]).clamp(min=0).bincount().max()), 1)
    results = [Result(TEXT, 0, 0, *held_out.score(predictor.embed(names, negatives=())))]
    for method, classes in ways_to_ask(predictor, names, half, {i: p.class_ids for i, p in enumerate(rest)}, 0):
        results.append(Result(method, most, 0, *held_out.score(classes)))
    return results

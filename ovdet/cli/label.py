"""Label the photos of a folder for a labeling or training tool; goes on where an earlier run was interrupted.

ovdet label photos --names "dog, red kite" --format yolo --output labels
ovdet label photos --names names.txt --format coco csv --thresholds "dog=0.5, red kite=0.1" --output labels
ovdet label photos --names all_names.txt --missing instances.json --output pseudo
ovdet label photos --names names.txt --engine ray --processes 8 --output labels
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovdet.cli.arguments import add_json_argument, add_overrides, say
from ovdet.cli.detect import (
    add_limit_arguments,
    add_name_arguments,
    add_predictor_arguments,
    checked_limits,
    predictor_for,
)
from ovdet.errors import InputError
from ovdet.files import atomic_write, require_path

if TYPE_CHECKING:
    from ovdet.inference.labels import Journal, Labels
    from ovdet.inference.predictor import OpenVocabPredictor

_FORMATS = ("coco", "yolo", "voc", "labelstudio", "cvat", "csv")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("folder", metavar="FOLDER", help="of the photos")
    add("--format", nargs="+", choices=_FORMATS, default=["coco"], help="one or more (default: coco)")
    add("--output", required=True, metavar="DIR", help="for the labels, their journal and review.html")
    add_name_arguments(parser)
    add_predictor_arguments(parser)
    add_limit_arguments(parser)
    lowest = "lowest scores of single names; of the others --threshold says it"
    add("--thresholds", metavar='"a=0.5, b=0.1"', help=lowest)
    missing = "label the photos of this COCO json with the names that it lacks: coco.json is it with these beside"
    add("--missing", metavar="X.json", help=missing)
    review = "how many of the least sure detections review.html shows; 0 for no page (default: 60)"
    add("--review", type=int, default=60, metavar="N", help=review)
    add("--engine", default="local", choices=("local", "ray"), help="ray: the cluster of $RAY_ADDRESS, else one here")
    add("--processes", type=int, default=0, metavar="N", help="of --engine ray (default: one a GPU, or one a CPU)")
    add_json_argument(parser)
    add_overrides(parser)


def run(arguments: argparse.Namespace) -> None:
    from ovdet.data.images import find_images
    from ovdet.inference.labels import Journal, Labels
    from ovdet.inference.review import write_review
    from ovdet.inference.shown import thresholds_of
    from ovdet.text.class_names import normalize_class_name

    # what is asked
    limits, output, folder = _checked(arguments)
    own = None if arguments.missing is None else _read_own(arguments)
    photos = find_images(folder) if own is None else _photos_of(own, folder, arguments.missing)
    given = parse_thresholds(arguments.thresholds)
    predictor = predictor_for(arguments, arguments.overrides)
    thresholds_of(predictor.classes, given)  # refuses names that are not asked for
    of_others = thresholds_of(predictor.classes, limits["threshold"]).tolist()
    chosen = {normalize_class_name(name): value for name, value in given.items()}
    every = zip(predictor.names, of_others, strict=True)
    thresholds = {name: chosen.get(normalize_class_name(name), round(value, 4)) for name, value in every}
    # labels
    journal = Journal(output, _asked(arguments, thresholds))
    before = len(journal.done)
    stream = _stream(arguments, predictor, {**limits, "threshold": thresholds, "batch_size": arguments.batch_size})
    failures = _label(stream, photos, journal)
    # files
    here = [journal.done[photo.name] for photo in photos if photo.name in journal.done]
    labels = Labels(folder, predictor.names, tuple(here), arguments.model or arguments.weights or "ovdet-lite")
    files = _write(arguments, labels, output) if own is None else [_write_beside(own, photos, journal, output)]
    files += [str(write_review(labels, thresholds, output, number=arguments.review))] if arguments.review > 0 else []
    boxes = sum(len(photo.detections) for photo in here)
    line = f"{', '.join(files)}: {boxes} boxes on {len(here)} photos, {len(journal.done) - before} of them new"
    say(arguments, line, {"files": files, "photos": len(here), "boxes": boxes, "left_out": len(failures)})
    if failures:
        raise InputError(f"{len(failures)} photos cannot be used, the first: {failures[0]}")


def _checked(arguments: argparse.Namespace) -> tuple[dict[str, Any], Path, Path]:
    """Limits of what is shown, output and folder; InputError where one cannot be used, before anything is written."""
    from ovdet.cluster import import_ray
    from ovdet.inference.results import check_output

    limits, output, folder = checked_limits(arguments), Path(require_path(arguments.output)), Path(arguments.folder)
    if arguments.processes < 0 or arguments.processes and arguments.engine == "local":
        raise InputError(f"expected --processes of 0 or more, with --engine ray, got {arguments.processes}")
    if arguments.engine == "ray":
        import_ray()
    if not folder.is_dir():
        raise InputError(f"expected a folder of photos, got {folder}")
    check_output(output, str(folder))
    return limits, output, folder


def _stream(arguments: argparse.Namespace, predictor: OpenVocabPredictor, wanted: dict[str, Any]) -> Callable:
    """A function that detects on photos: the predictor's here, or one in each process of a cluster."""
    from ovdet.inference.cluster_stream import stream_on_cluster

    if arguments.engine == "local":
        return partial(predictor.stream, **wanted)
    build = partial(predictor_for, arguments, arguments.overrides)
    return partial(stream_on_cluster, build=build, processes=arguments.processes, **wanted)


def _label(stream: Callable, photos: Sequence[Path], journal: Journal) -> list[InputError]:
    """Label the photos that a journal lacks, behind a progress bar; what is wrong with those that cannot be used."""
    from ovdet.inference.labels import label_photos
    from ovdet.progress import track

    failures = []

    def leave_out(photo: Path, error: InputError) -> None:
        failures.append(error)
        print(f"left out: {error}", file=sys.stderr)

    total = sum(photo.name not in journal.done for photo in photos)
    for _ in track(label_photos(stream, photos, journal, leave_out), "labeling", total):
        pass
    return failures


def _write(arguments: argparse.Namespace, labels: Labels, output: Path) -> list[str]:
    """Write labels in each format that is asked for; the files."""
    from ovdet.inference.label_formats import FORMATS

    return [str(FORMATS[name](labels, output)) for name in dict.fromkeys(arguments.format)]


def _write_beside(own: dict[str, Any], photos: Sequence[Path], journal: Journal, output: Path) -> str:
    """Write a json's own boxes with what was found of the names that it lacks; the file."""
    from ovdet.inference.pseudo_labels import add_pseudo_labels

    pairs = zip((image["file_name"] for image in own["images"]), photos, strict=True)
    found = {name: journal.done[photo.name] for name, photo in pairs if photo.name in journal.done}
    file = output / "coco.json"
    atomic_write(file, json.dumps(add_pseudo_labels(own, found), ensure_ascii=False).encode())
    return str(file)


def _read_own(arguments: argparse.Namespace) -> dict[str, Any]:
    """The content of --missing X.json.

    Raises:
        InputError: it is no such json, or another format than COCO's is asked for.
    """
    from ovdet.data.coco import check_coco, read_json

    if arguments.format != ["coco"]:
        raise InputError(f"expected --format coco with --missing, got {' '.join(arguments.format)}")
    content = read_json(arguments.missing, "a COCO-format json")
    check_coco(content, arguments.missing)
    return content


def _photos_of(content: dict[str, Any], folder: Path, json_file: str) -> list[Path]:
    """The files of a json's photos, in its order; InputError where one is missing, or outside of the folder."""
    from ovdet.data.dataset import check_sizes, check_within, find_photos

    names = [image["file_name"] for image in content["images"]]
    check_within(names, folder, json_file)
    photos = [Path(file) for file in find_photos([str(folder / name) for name in names], folder)]
    check_sizes([{**image, "file_name": str(photo)} for image, photo in zip(content["images"], photos, strict=True)])
    if odd := [name for name, number in Counter(photo.name for photo in photos).items() if number > 1]:
        raise InputError(f"expected photos of {json_file} with file names of their own, got {odd[0]!r} twice")
    return photos


def parse_thresholds(text: str | None) -> dict[str, float]:
    """ "dog=0.5, red kite=0.1" as a mapping.

    Raises:
        InputError: it is something else, or a number is outside of [0, 1].
    """
    found = {}
    for part in (text or "").split(",") if text else ():
        name, equals, value = part.rpartition("=")
        try:
            found[name.strip()] = number = float(value)
        except ValueError:
            number = -1.0
        if not equals or not name.strip() or not 0 <= number <= 1:
            raise InputError(f'expected --thresholds such as "dog=0.5, red kite=0.1", 0 to 1 each, got {text!r}')
    return found


def _asked(arguments: argparse.Namespace, thresholds: dict[str, float]) -> dict[str, Any]:
    """The settings that decide about labels, for the journal."""
    keys = ("vocabulary", "classes", "exemplar", "missing", "negatives", "class_agnostic_iou", "max_containment")
    detector = ("model", "config_file", "weights", "teacher", "half", "int8", "runtime", "tiles", "overrides")
    asked = {key: getattr(arguments, key) for key in (*keys, *detector)}
    return {
        **asked,
        "names": list(thresholds),
        "thresholds": thresholds,
        "folder": str(Path(arguments.folder).resolve()),
    }

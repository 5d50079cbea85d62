"""Learn classes of your own from annotated photos; the detector stays as it is, and so do the scores of other names.

ovdet learn --annotations my.json --images photos --output my.safetensors
ovdet detect photo.jpg --classes my.safetensors --names "dog, red kite"

Or write a detector that knows them by itself, as a model folder:
ovdet learn --set my.json=photos --set more.json=photos --output my_model
ovdet detect photo.jpg --model my_model --names "my class, dog, red kite"
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ovdet.cli.arguments import (
    add_data_arguments,
    add_detector_arguments,
    open_predictor,
    parse_set,
    read_card,
    reports_on_stderr,
    say,
)
from ovdet.errors import InputError
from ovdet.files import check_place, require_path

if TYPE_CHECKING:
    from ovdet.learning.learn import AnnotatedPhoto


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    shown = "COCO format; all things of a learned class have boxes"
    add_data_arguments(parser, shown, required=False, images_required=False)
    several = "the same of several data sets, for a model folder; each photo counts for the names of its own set"
    add("--set", dest="sets", action="append", default=[], metavar="X.json=DIR", help=several)
    made = "the learned classes; or a folder, for the detector with these names in it"
    add("--output", required=True, metavar="F.safetensors|DIR", help=made)
    add("--card", metavar="F.md", help="the model folder's card (default: the detector's)")
    one = "class to learn, may be repeated (default: all that have a box)"
    add("--name", action="append", default=[], metavar="N", help=one)
    none = "photos that show none of the classes, as one more json; those that do are left out"
    add("--negatives-from", metavar="Y.json", help=none)
    add("--negatives-images", metavar="DIR", help="the folder of these photos (default: as --images)")
    alone = "learn from the boxes alone; --compare says what names give (default: what they mean counts too)"
    add("--without-names", action="store_true", help=alone)
    compared = "first say what names alone, examples alone and both give on every third photo, learned from the others"
    add("--compare", action="store_true", help=compared)
    add_detector_arguments(parser, default="ovdet-lite")


def run(arguments: argparse.Namespace) -> None:
    suffix = Path(require_path(arguments.output)).suffix
    if suffix not in (".safetensors", ""):
        raise InputError(f"expected an output file *.safetensors, or a folder without a suffix, got {arguments.output}")
    if suffix:
        _write_classes(arguments)
    else:
        _write_model(arguments)


def _write_classes(arguments: argparse.Namespace) -> None:
    from ovdet.inference.few_shot import compare
    from ovdet.inference.few_shot_report import as_table, summary
    from ovdet.learning.classes_file import save_classes
    from ovdet.learning.learn import of_one_photo, read_examples, read_negatives

    if arguments.sets or arguments.card or not (arguments.annotations and arguments.images):
        raise InputError("expected --annotations and --images for a file of classes; --set and --card are for a folder")
    if arguments.negatives_images and not arguments.negatives_from:
        raise InputError("expected --negatives-from with --negatives-images, got none")
    check_place(arguments.output)
    names, photos = read_examples(arguments.annotations, arguments.images, arguments.name)
    for line in of_one_photo([(names, photos)]):
        print(line, file=sys.stderr)
    if arguments.compare and len(photos) < 2:
        raise InputError(f"expected two photos or more for --compare, got {len(photos)} in {arguments.annotations}")
    if arguments.negatives_from:
        folder = arguments.negatives_images or arguments.images
        photos += read_negatives(arguments.negatives_from, folder, names)
    predictor = open_predictor(arguments)
    results = []
    if arguments.compare:
        annotated = [photo for photo in photos if photo.image_id is not None]  # not those of --negatives-from
        with reports_on_stderr(arguments.json):
            results = compare(predictor, arguments.annotations, names, annotated)
    start = time.perf_counter()
    classes = predictor.learn_classes(names, photos, use_names=not arguments.without_names)
    save_classes(arguments.output, classes)
    seconds = time.perf_counter() - start
    line = f"{arguments.output}: {len(names)} learned from {len(photos)} photos in {seconds:.0f} s"
    values = {"output": arguments.output, "names": list(names), "photos": len(photos)}
    if results:
        line = f"{as_table(results)}\n\n{line}"
        values["compared"] = summary(results)
    say(arguments, line, values)


def _write_model(arguments: argparse.Namespace) -> None:
    from ovdet.hub.find import DEFAULT_MODEL, choose_model, open_config
    from ovdet.hub.load import check_own
    from ovdet.hub.model_folder import check_model_folder, write_model_folder
    from ovdet.learning.expert import learn_expert
    from ovdet.learning.learn import of_one_photo, read_example_sets
    from ovdet.progress import track
    from ovdet.text.class_names import names_among

    sets = [parse_set(text) for text in arguments.sets]
    if bool(arguments.annotations) != bool(arguments.images) or not (sets or arguments.annotations):
        raise InputError("expected --set X.json=DIR, or --annotations and --images, got neither or a part of it")
    for_files = ("negatives_from", "negatives_images", "without_names", "compare")
    if odd := [f"--{key.replace('_', '-')}" for key in for_files if getattr(arguments, key)]:
        raise InputError(f"expected {odd[0]} with an --output *.safetensors, got a folder")
    sets += [(arguments.annotations, arguments.images)] if arguments.annotations else []
    given = arguments.model, arguments.config_file, arguments.weights
    config_file, weights = choose_model(*given, default=DEFAULT_MODEL)
    config = open_config(config_file, [*arguments.overrides, "train.device=cpu"])
    check_own(config)
    card = read_card(arguments.card, config_file)
    check_model_folder(arguments.output)
    shown = read_example_sets(sets, arguments.name)
    for line in of_one_photo(shown):
        print(line, file=sys.stderr)
    predictor = open_predictor(arguments)
    start, photos = time.perf_counter(), 0

    def go_through(of_set: Sequence[AnnotatedPhoto]) -> Iterable[AnnotatedPhoto]:
        nonlocal photos
        photos += len(of_set)
        return track(of_set, "learning")

    expert = learn_expert(predictor.model, predictor.prepare, predictor.embed_names, shown, track=go_through)
    write_model_folder(config, weights, arguments.output, card=card, linear_expert=expert)
    seconds = time.perf_counter() - start
    learned = names_among(expert.names, [name for names, _ in shown for name in names])
    line = f"{arguments.output}: {len(learned)} learned from {photos} photos in {seconds:.0f} s"
    line += f", {len(expert.names)} in all" if len(expert.names) > len(learned) else ""
    say(arguments, line, {"output": arguments.output, "names": learned, "photos": photos})

"""Learn classes of your own from annotated photos; the detector stays as it is, and so do the scores of other names.

ovdet learn --annotations my.json --images photos --output my.safetensors
ovdet detect photo.jpg --classes my.safetensors --names "dog, red kite"
"""

from __future__ import annotations

import argparse
import sys
import time

from ovdet.cli.arguments import add_data_arguments, add_detector_arguments, open_predictor, reports_on_stderr, say
from ovdet.errors import InputError
from ovdet.files import require_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_data_arguments(parser, "COCO format; all things of a learned class have boxes")
    add("--output", required=True, metavar="F.safetensors", help="the learned classes")
    add("--name", action="append", default=[], metavar="N", help="class to learn, may be repeated (default: all)")
    none = "photos that show none of the classes, as one more json; those that do are left out"
    add("--negatives-from", metavar="Y.json", help=none)
    add("--negatives-images", metavar="DIR", help="the folder of these photos (default: as --images)")
    alone = "learn from the boxes alone; --compare says what names give (default: what they mean counts too)"
    add("--without-names", action="store_true", help=alone)
    compared = "first say what names alone, examples alone and both give on every third photo, learned from the others"
    add("--compare", action="store_true", help=compared)
    add_detector_arguments(parser, default="ovdet-lite")


def run(arguments: argparse.Namespace) -> None:
    from ovdet.inference.few_shot import compare
    from ovdet.inference.few_shot_report import as_table, summary
    from ovdet.learning.classes_file import save_classes
    from ovdet.learning.learn import of_one_photo, read_examples, read_negatives

    if not require_path(arguments.output).endswith(".safetensors"):
        raise InputError(f"expected an output file *.safetensors, got {arguments.output}")
    names, photos = read_examples(arguments.annotations, arguments.images, arguments.name)
    for line in of_one_photo(names, photos):
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

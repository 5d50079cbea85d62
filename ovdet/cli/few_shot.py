"""Measure what a few boxes a class give: names alone, examples alone and both, on photos held out, over seeds.

ovdet few-shot --annotations my.json --images photos --output output/few_shot
ovdet few-shot --annotations my.json --images photos --output output/few_shot --shots 1,10 --seeds 3 --model my_detector
"""

from __future__ import annotations

import argparse

from ovdet.cli.arguments import (
    add_device_argument,
    add_json_argument,
    add_model_arguments,
    add_overrides,
    reports_on_stderr,
    say,
)
from ovdet.errors import InputError
from ovdet.files import require_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--annotations", required=True, metavar="X.json", help="COCO format; every second photo is held out")
    add("--images", required=True, metavar="DIR", help="the folder of its photos")
    add(
        "--output",
        required=True,
        metavar="DIR",
        help="for few_shot.json, .csv and .png; a run goes on with what is there",
    )
    add("--shots", default="1,3,5,10,30", metavar="k,k", help="boxes a class (default: %(default)s)")
    add("--seeds", type=int, default=5, metavar="N", help="draws of each (default: %(default)s)")
    add("--max-photos", type=int, default=400, metavar="N", help="of each half at most (default: %(default)s)")
    add_model_arguments(parser, default="ovdet-lite")
    add_device_argument(parser)
    add_json_argument(parser)
    add_overrides(parser)


def run(arguments: argparse.Namespace) -> None:
    from ovdet.inference.few_shot import as_table, few_shot, summary
    from ovdet.inference.load import load_predictor

    parts = arguments.shots.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise InputError(f'expected --shots as whole numbers, such as "1,10", got {arguments.shots!r}')
    if arguments.max_photos < 1:
        raise InputError(f"expected --max-photos of 1 or more, got {arguments.max_photos}")
    output = require_path(arguments.output)
    chosen = {key: getattr(arguments, key) for key in ("model", "config_file", "weights", "device", "overrides")}
    with reports_on_stderr(arguments.json):
        results = few_shot(
            load_predictor(**chosen),
            arguments.annotations,
            arguments.images,
            output,
            shots=[int(part) for part in parts],
            seeds=arguments.seeds,
            max_photos=arguments.max_photos,
        )
    say(arguments, as_table(results), {"output": output, "results": summary(results)})

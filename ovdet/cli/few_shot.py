"""Measure what a few boxes a class give: names alone, examples alone and both, on photos held out, over seeds.

ovdet few-shot --annotations my.json --images photos --output output/few_shot
ovdet few-shot --annotations my.json --images photos --output output/few_shot --shots 1,10 --seeds 3 --model my_detector
"""

from __future__ import annotations

import argparse

from ovdet.cli.arguments import add_data_arguments, add_detector_arguments, open_predictor, reports_on_stderr, say
from ovdet.errors import InputError
from ovdet.files import require_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_data_arguments(parser, "COCO format; every second photo is held out")
    add(
        "--output",
        required=True,
        metavar="DIR",
        help="for few_shot.json, .csv and .png; a run goes on with what is there",
    )
    add("--shots", default="1,3,5,10,30", metavar="k,k", help="boxes a class (default: %(default)s)")
    add("--seeds", type=int, default=5, metavar="N", help="draws of each (default: %(default)s)")
    add("--max-photos", type=int, default=400, metavar="N", help="of each half at most (default: %(default)s)")
    tuned = "also fine-tune for so many steps on the drawn photos: as --config-file says, else as lite/own_data"
    add("--fine-tune", type=int, metavar="STEPS", help=f"{tuned} (default: no; minutes each)")
    add_detector_arguments(parser, default="ovdet-lite")


def run(arguments: argparse.Namespace) -> None:
    from ovdet.hub.find import DEFAULT_MODEL, choose_model
    from ovdet.inference.few_shot import few_shot
    from ovdet.inference.few_shot_report import as_table, summary
    from ovdet.inference.fine_tuning import FineTuning

    parts = arguments.shots.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise InputError(f'expected --shots as whole numbers, such as "1,10", got {arguments.shots!r}')
    if arguments.max_photos < 1:
        raise InputError(f"expected --max-photos of 1 or more, got {arguments.max_photos}")
    output, fine_tuning = require_path(arguments.output), None
    if arguments.fine_tune is not None:
        given = arguments.model, arguments.config_file, arguments.weights
        files = choose_model(*given, default=DEFAULT_MODEL)
        if not files.weights:
            raise InputError("expected --weights with --config-file and --fine-tune: what training begins with")
        fine_tuning = FineTuning(
            arguments.config_file or "lite/own_data", files.weights, arguments.fine_tune, arguments.overrides
        )
    with reports_on_stderr(arguments.json):
        results = few_shot(
            open_predictor(arguments),
            arguments.annotations,
            arguments.images,
            output,
            shots=[int(part) for part in parts],
            seeds=arguments.seeds,
            max_photos=arguments.max_photos,
            fine_tuning=fine_tuning,
        )
    say(arguments, as_table(results), {"output": output, "results": summary(results)})

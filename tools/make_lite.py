"""Make the default model from data folders, each stage once: train, average, pack, learn, calibrate, evaluate.

tools/make_lite.py --data PATH --card card.md --output output/make_lite --test PATH/instances_val.json=PATH/images
    --calibrate new_photos.json=DIR --calibrate other_names.json=DIR --set dataset.more=SETS train.max_iter=7476
PATH and SETS as for configs/lite/ovdet_lite_mixture.py. With pseudo-labels and the expert, as shipped:
    --config configs/lite/ovdet_lite_expert.py --set dataset.more=SETS dataset.labels=LABELS dataset.nanodet=FOLDER
And with names that a linear expert learns beside it: --learn SETS/rabbit/train.json=SETS/rabbit/images ...
7,476 steps take six hours on one core, learning from 6,000 photos half an hour on two (twice with --calibrate),
evaluation of 478 photos two minutes; --from-nothing trains ovdet-lite-base48's recipe before, some ten hours more.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from reproduce.make import CONFIG, Recipe, make

from ovdet.errors import InputError, command
from ovdet.files import require_path


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", required=True, metavar="PATH", help="images/ and the json files, `dataset.root` of the config")
    add("--output", required=True, metavar="DIR", help="folder for all stages; model/ is the result")
    add("--card", required=True, metavar="F.md", help="the model card")
    add("--config", default=CONFIG, metavar="F", help="of the training (default: configs/lite/ovdet_lite_mixture.py)")
    add("--start", default="ovdet-lite-base48", metavar="M", help="what it begins with (default: %(default)s)")
    add("--from-nothing", action="store_true", help="train what it begins with, too, instead of --start")
    add("--share", type=float, default=0.85, metavar="s", help="of the trained weights (default: %(default)s)")
    learned = "photos whose names a linear expert learns, see ovdet learn; may be repeated"
    add("--learn", action="append", default=[], metavar="X.json=DIR", help=learned)
    add("--calibrate", action="append", default=[], metavar="X.json=DIR", help="new photos, see ovdet calibrate")
    add("--precision", type=float, default=0.6, metavar="p", help="see ovdet calibrate (default: %(default)s)")
    add("--test", action="append", default=[], metavar="X.json=DIR", help="photos to evaluate on; may be repeated")
    add("--set", nargs="+", default=[], metavar="key=value", help="overrides of the trainings' configs")
    return parser.parse_args()


@command
def main() -> None:
    arguments = parse_arguments()
    if not 0 < arguments.share <= 1:
        raise InputError(f"expected a share above 0 and up to 1, got {arguments.share}")
    recipe = Recipe(
        data=arguments.data,
        output=Path(require_path(arguments.output)),
        start="" if arguments.from_nothing else arguments.start,
        config=arguments.config,
        share=arguments.share,
        card=arguments.card,
        learn=tuple(arguments.learn),
        calibrate=tuple(arguments.calibrate),
        precision=arguments.precision,
        test=tuple(arguments.test),
        overrides=tuple(arguments.set),
    )
    print(make(recipe))
    print((recipe.output / "results.md").read_text(), end="")


if __name__ == "__main__":
    main()

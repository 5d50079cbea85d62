"""Train and evaluate each row of the table of methods (configs/lite); continues where it stopped.

tools/reproduce_lite.py --data PATH --output output/reproduce_lite
tools/reproduce_lite.py --data PATH --output output/reproduce_lite --seed 1 --rows vild_text vild_ensemble
tools/reproduce_lite.py --data PATH --output output/objectives --start ovdet-lite-base48 --rows objectives
PATH as for configs/lite/base_detector.py. Writes results.md and learning_curves.png.
"""

from __future__ import annotations

import argparse

from reproduce.lite import ROWS, choose_rows, run_rows, write_results

from ovdet.errors import command
from ovdet.files import require_path


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, metavar="PATH", help="images/ and the three json files")
    parser.add_argument(
        "--output", required=True, metavar="DIR", help="folder for runs, results.md, learning_curves.png"
    )
    rows = ", ".join(row.name for row in ROWS)
    parser.add_argument(
        "--rows", nargs="+", default=(), metavar="ROW", help=f"out of {rows} (default: these), or objectives"
    )
    parser.add_argument("--start", default="", metavar="M", help="a detector in place of base_detector's row")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the training (default: 0)")
    parser.add_argument("--set", nargs="+", default=(), metavar="key=value", help="overrides of all configs")
    return parser.parse_args()


@command
def main() -> None:
    arguments = parse_arguments()
    rows = choose_rows(arguments.rows)
    options = dict(seed=arguments.seed, start=arguments.start, overrides=arguments.set)
    run_rows(rows, arguments.data, require_path(arguments.output), **options)
    print(write_results(arguments.output))


if __name__ == "__main__":
    main()

"""How fast ovdet is, beside a peer and beside the limit, all in one run.

tools/benchmark.py evaluation --output output/benchmark.json
"""

from __future__ import annotations

import argparse
import importlib

from benchmarks.timing import print_rows, write_rows

from ovdet.errors import InputError, command

CASES: dict[str, str] = {
    # each a module of benchmarks with add_arguments(parser) and run(arguments) -> list[Row]
    "evaluation": "AP of each class from detections, beside pycocotools",
    "postprocess": "from scores to detections, beside detectron2's post-processing",
    "vocabulary": "the cost of 1 to 1,000,000 names, beside a dense softmax and the bare matrix product",
    "teacher": "embeddings of regions, beside one crop at a time and the teacher alone",
    "inference": "the whole detector for 1, 65 and 1203 names, beside detectron2's closed-set one",
    "train": "ViLD's training step, beside the plain Faster R-CNN's",
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cases = parser.add_subparsers(dest="case", required=True, metavar="CASE")
    for name, summary in CASES.items():
        case = cases.add_parser(name, help=summary, description=summary)
        case.add_argument("--rounds", type=int, default=5, metavar="N", help="how often each is timed (default: 5)")
        case.add_argument("--output", metavar="F.json", help="write the rows there too")
        importlib.import_module(f"benchmarks.{name}").add_arguments(case)
    return parser.parse_args()


@command
def main() -> None:
    arguments = parse_arguments()
    if arguments.rounds < 1:
        raise InputError(f"expected --rounds of at least 1, got {arguments.rounds}")
    rows = importlib.import_module(f"benchmarks.{arguments.case}").run(arguments)
    print_rows(rows)
    if arguments.output:
        write_rows(rows, arguments.output)


if __name__ == "__main__":
    main()

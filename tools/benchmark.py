"""Time ovdet against a peer and a lower bound, all in one run.

tools/benchmark.py evaluation --output output/benchmark.json
"""

from __future__ import annotations

import argparse
import importlib

from ovdet.benchmarks.timing import print_rows, write_rows
from ovdet.errors import InputError, command

CASES: dict[str, str] = {
    # each a module of ovdet.benchmarks with add_arguments(parser) and run(arguments) -> list[Row]
    "evaluation": "AP per class from detections, against pycocotools",
    "extraction": "photos into a region store, against the networks alone",
    "postprocess": "from scores to detections, against detectron2's post-processing",
    "vocabulary": "scoring 1 to 1,000,000 names, against a dense softmax and the bare matrix product",
    "teacher": "embeddings of regions, against one crop at a time and the teacher's forward alone",
    "inference": "the whole detector for 1, 65 and 1203 names, against detectron2's closed-set one",
    "start": "from the shell to the first box, against a bare import of torch and torchvision",
    "stream": "photos of a folder, against one by one and the network on photos that are ready",
    "train": "a training step of ViLD, against one of Faster R-CNN",
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cases = parser.add_subparsers(dest="case", required=True, metavar="CASE")
    for name, summary in CASES.items():
        case = cases.add_parser(name, help=summary, description=summary)
        case.add_argument("--rounds", type=int, default=5, metavar="N", help="timed runs of each (default: 5)")
        case.add_argument("--output", metavar="F.json", help="write the rows there too")
        importlib.import_module(f"ovdet.benchmarks.{name}").add_arguments(case)
    return parser.parse_args()


@command
def main() -> None:
    arguments = parse_arguments()
    if arguments.rounds < 1:
        raise InputError(f"expected --rounds of at least 1, got {arguments.rounds}")
    rows = importlib.import_module(f"ovdet.benchmarks.{arguments.case}").run(arguments)
    print_rows(rows)
    if arguments.output:
        write_rows(rows, arguments.output)


if __name__ == "__main__":
    main()

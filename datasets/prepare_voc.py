"""PASCAL VOC 2007's test set as a COCO-format json, for voc_2007_test.

datasets/prepare_voc.py
datasets/prepare_voc.py --voc VOCdevkit/VOC2007 --output voc_2007_test.json
"""

from __future__ import annotations

import argparse
from pathlib import Path

from preparing.counts import format_counts
from preparing.voc import prepare_voc

from ovdet.data.root import datasets_root
from ovdet.errors import command

NAMES = Path(__file__).parent / "metadata/voc.json"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", metavar="DIR", help="of all data sets (default: $DETECTRON2_DATASETS, else datasets)")
    parser.add_argument("--voc", type=Path, metavar="DIR", help="Annotations/, ImageSets/ (default: ROOT/VOC2007)")
    parser.add_argument("--names", type=Path, default=NAMES, metavar="F", help="class names (default: %(default)s)")
    parser.add_argument("--output", type=Path, metavar="F", help="default: ROOT/VOC2007/voc_2007_test.json")
    return parser.parse_args()


@command
def main() -> None:
    arguments = parse_arguments()
    default = datasets_root(arguments.root) / "VOC2007"
    output = arguments.output or default / "voc_2007_test.json"
    report = prepare_voc(arguments.voc or default, arguments.names, output)
    print(f"{format_counts(report)}\n\nwritten to {output}")


if __name__ == "__main__":
    main()

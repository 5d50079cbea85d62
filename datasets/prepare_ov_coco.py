"""The annotation files of OV-COCO (48 base, 17 novel classes) from COCO's own, for ov_coco_2017_{train,val}.

datasets/prepare_ov_coco.py
datasets/prepare_ov_coco.py --annotations DIR --output DIR --no-captions
"""

from __future__ import annotations

import argparse
from pathlib import Path

from preparing.counts import format_counts
from preparing.ov_coco import prepare_ov_coco

from ovdet.data.root import datasets_root
from ovdet.errors import command

SPLIT = Path(__file__).parent / "metadata/ov_coco.json"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", metavar="DIR", help="of all data sets (default: $DETECTRON2_DATASETS, else datasets)")
    parser.add_argument("--annotations", type=Path, metavar="DIR", help="instances_{train,val}2017.json and "
                        "captions_{train,val}2017.json (default: ROOT/coco/annotations)")  # fmt: skip
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="ov_coco_2017_*.json (default: ROOT/coco/annotations)"
    )
    parser.add_argument("--split", type=Path, default=SPLIT, metavar="F", help="the split json (default: %(default)s)")
    parser.add_argument("--no-captions", action="store_true", help="leave the captions of the same photos out")
    return parser.parse_args()


@command
def main() -> None:
    arguments = parse_arguments()
    default = datasets_root(arguments.root) / "coco/annotations"
    output = arguments.output or default
    annotations = arguments.annotations or default
    report = prepare_ov_coco(annotations, arguments.split, output, captions=not arguments.no_captions)
    print(f"{format_counts(report)}\n\nov_coco_2017_*.json are in {output}")


if __name__ == "__main__":
    main()

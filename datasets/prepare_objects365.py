"""Objects365's validation set with better class names and its photos' places, for objects365_{v1,v2}_val.

datasets/prepare_objects365.py --version 2
datasets/prepare_objects365.py --version 1 --annotations val.json --photos DIR --output objects365_v1_val.json
"""

from __future__ import annotations

import argparse
from pathlib import Path

from preparing.counts import format_counts
from preparing.objects365 import COUNTS, prepare_objects365

from ovdet.data.root import datasets_root
from ovdet.errors import command

NAMES = Path(__file__).parent / "metadata"
OFFICIAL = {1: "objects365_val.json", 2: "zhiyuan_objv2_val.json"}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", type=int, required=True, choices=OFFICIAL, help="of Objects365")
    parser.add_argument("--root", metavar="DIR", help="of all data sets (default: $DETECTRON2_DATASETS, else datasets)")
    parser.add_argument("--annotations", type=Path, metavar="F", help="default: ROOT/objects365_vN/annotations/"
                        "objects365_val.json (1) or zhiyuan_objv2_val.json (2)")  # fmt: skip
    parser.add_argument("--photos", type=Path, metavar="DIR", help="default: ROOT/objects365_vN/val")
    parser.add_argument("--names", type=Path, metavar="F", help="class names (default: metadata/objects365_vN.json)")
    parser.add_argument("--output", type=Path, metavar="F",
                        help="default: ROOT/objects365_vN/annotations/objects365_vN_val.json")  # fmt: skip
    parser.add_argument("--skip-missing", action="store_true", help="leave photos out that are not there")
    return parser.parse_args()


@command
def main() -> None:
    arguments = parse_arguments()
    name = f"objects365_v{arguments.version}"
    default = datasets_root(arguments.root) / name
    output = arguments.output or default / f"annotations/{name}_val.json"
    report = prepare_objects365(
        arguments.annotations or default / "annotations" / OFFICIAL[arguments.version],
        arguments.photos or default / "val",
        arguments.names or NAMES / f"{name}.json",
        output,
        counts=COUNTS[arguments.version],
        skip_missing=arguments.skip_missing,
    )
    print(f"{format_counts(report)}\n\nwritten to {output}")


if __name__ == "__main__":
    main()

"""The annotation files of OV-LVIS (866 base, 337 novel classes) from LVIS's own, for ov_lvis_v1_{train,val}.

datasets/prepare_ov_lvis.py
datasets/prepare_ov_lvis.py --annotations DIR --output DIR
"""

from __future__ import annotations

import argparse
from pathlib import Path

from preparing.counts import format_counts
from preparing.ov_lvis import prepare_ov_lvis

from ovdet.data.root import datasets_root
from ovdet.errors import command

SPLIT = Path(__file__).parent / "metadata/ov_lvis_v1.json"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", metavar="DIR", help="of all data sets (default: $DETECTRON2_DATASETS, else datasets)")
    parser.add_argument("--annotations", type=Path, metavar="DIR", help="lvis_v1_{train,val}.json (default: ROOT/lvis)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="for ov_lvis_v1_*.json (default: ROOT/lvis)")
    parser.add_argument("--split", type=Path, default=SPLIT, metavar="F", help="the split json (default: %(default)s)")
    return parser.parse_args()


@command
def main() -> None:
    arguments = parse_arguments()
    default = datasets_root(arguments.root) / "lvis"
    output = arguments.output or default
    report = prepare_ov_lvis(arguments.annotations or default, arguments.split, output)
    print(f"{format_counts(report)}\n\nov_lvis_v1_*.json are in {output}")


if __name__ == "__main__":
    main()

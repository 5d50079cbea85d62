"""Average the weights of a detector before and after fine-tuning (WiSE-FT, arXiv:2109.01903).

tools/average_weights.py --before output/lite/base_detector/model_final.pth --share 0.7
    --after output/lite/ovdet_lite/model_final.pth --output output/lite/ovdet_lite/averaged.pth
"""

from __future__ import annotations

import argparse

from ovdet.engine.checkpoint import average_checkpoints
from ovdet.errors import command


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", required=True, metavar="W", help="checkpoint before fine-tuning")
    parser.add_argument("--after", required=True, metavar="W", help="checkpoint after it")
    parser.add_argument(
        "--share", type=float, default=0.5, metavar="s", help="weight of --after, 0 to 1 (default: 0.5)"
    )
    parser.add_argument("--output", required=True, metavar="W.pth", help="the file to write")
    return parser.parse_args()


@command
def main() -> None:
    arguments = parse_arguments()
    average_checkpoints(arguments.before, arguments.after, arguments.share, arguments.output)
    print(arguments.output)


if __name__ == "__main__":
    main()

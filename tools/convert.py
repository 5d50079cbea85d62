"""Convert a detector that another project published into a model folder.

tools/convert.py --weights Detic_OVCOCO_CLIP_R50_1x_max-size.pth --output detic_ov_coco
tools/demo.py --model detic_ov_coco --input photo.jpg --vocabulary "red kite, wheel" --output output/demo
"""

from __future__ import annotations

import argparse

from ovdet.errors import command
from ovdet.files import require_path
from ovdet.hub.published.convert import convert
from ovdet.hub.published.families import FAMILIES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that `run` takes."""
    parser.add_argument("--weights", required=True, metavar="F", help="the authors' file: .pth, .pkl or .safetensors")
    parser.add_argument("--family", choices=sorted(FAMILIES), help="of the weights (default: looks at all)")
    parser.add_argument("--output", required=True, metavar="DIR", help="the model folder to write")
    parser.add_argument("--half", action="store_true", help="weights in half precision (default: as published)")


def run(arguments: argparse.Namespace) -> None:
    """Write the folder and say what it is."""
    weights, output = require_path(arguments.weights), require_path(arguments.output)
    variant = convert(weights, output, family=arguments.family, half=arguments.half)
    print(f"{output}: {variant.title}, names by {variant.space.name}")


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    run(parser.parse_args())


if __name__ == "__main__":
    main()

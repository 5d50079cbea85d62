"""Convert a detector that another project published into a model folder.

ovdet convert --weights Detic_LCOCOI21k_CLIP_SwinB_896b32_4x_ft4x_max-size.pth --output detic_swin_b
ovdet detect photo.jpg --names "red kite, wheel" --model detic_swin_b
"""

from __future__ import annotations

import argparse

from ovdet.cli.arguments import add_json_argument, say
from ovdet.files import require_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--weights", required=True, metavar="F", help="the authors' file: .pth, .pkl or .safetensors")
    add("--family", metavar="NAME", help="of the weights, such as detic or regionclip (default: looks at all)")
    add("--proposals", metavar="F", help="with RegionCLIP: the file of the network that proposes (rpn_*.pth)")
    add("--output", required=True, metavar="DIR", help="the model folder to write")
    add("--half", action="store_true", help="weights in half precision (default: as published)")
    add_json_argument(parser)


def run(arguments: argparse.Namespace) -> None:
    from ovdet.hub.published.convert import convert

    weights, output = require_path(arguments.weights), require_path(arguments.output)
    variant = convert(weights, output, family=arguments.family, proposals=arguments.proposals, half=arguments.half)
    line = f"{output}: {variant.title}, names by {variant.space.name}"
    say(arguments, line, {"output": output, "title": variant.title, "teacher": variant.space.name})

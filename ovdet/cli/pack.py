"""Pack a detector into a model folder: data, fp16 weights, embeddings of trained names, a card; no code. Or push it.

ovdet pack --model output/lite/ovdet_lite --card card.md --output my_model
ovdet pack --model output/lite/ovdet_lite --card card.md --output my_model --push OWNER/NAME --license mit
ovdet detect photo.jpg --names "red kite, wheel" --model my_model
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ovdet.cli.arguments import add_json_argument, add_model_arguments, add_overrides, read_card, say
from ovdet.errors import InputError
from ovdet.files import require_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_model_arguments(parser)
    add("--card", required=True, metavar="F.md", help="the model card: data, licenses, figures, limits")
    add("--output", required=True, metavar="DIR", help="the folder to write")
    add("--push", metavar="OWNER/NAME", help="then upload the folder to the Hugging Face hub")
    add("--private", action="store_true", help="with --push: for yourself or your organization alone")
    add("--license", metavar="ID", help="with --push: such as apache-2.0 (default: the card's)")
    add_json_argument(parser)
    add_overrides(parser)


def run(arguments: argparse.Namespace) -> None:
    from ovdet.hub.find import choose_model, open_config
    from ovdet.hub.model_folder import write_model_folder
    from ovdet.hub.push import check_can_push, complete_card, push_model_folder

    if not arguments.push and (arguments.private or arguments.license):
        raise InputError("expected --private and --license with --push OWNER/NAME, got no --push")
    if arguments.push:
        check_can_push(arguments.push)
    config_file, weights = choose_model(arguments.model, arguments.config_file, arguments.weights)
    card = read_card(arguments.card, config_file)
    if arguments.push:
        card = complete_card(card, arguments.license)
    config = open_config(config_file, [*arguments.overrides, "train.device=cpu"])
    content = write_model_folder(config, weights, require_path(arguments.output), card=card)
    size, teacher = sum(file.stat().st_size for file in Path(arguments.output).iterdir()), content["teacher"]["name"]
    line = f"{arguments.output}: {size / 1e6:.1f} MB, names by teacher {teacher}"
    say(arguments, line, {"output": arguments.output, "bytes": size, "teacher": teacher})
    if arguments.push:
        name, address = push_model_folder(arguments.output, arguments.push, private=arguments.private)
        say(arguments, f"{name}: {address}", {"name": name, "address": address})

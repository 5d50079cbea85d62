"""Pack a detector into a model folder: config.json (data, no code), model.safetensors (fp16), README.md; or push it.

tools/pack_model.py --model output/lite/ovdet_lite --card card.md --output my_model
tools/pack_model.py --model output/lite/ovdet_lite --card card.md --output my_model --push OWNER/NAME --license mit
tools/demo.py --model my_model --input photo.jpg --vocabulary "red kite, wheel" --output output/demo
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ovdet.errors import InputError, command
from ovdet.files import require_path
from ovdet.hub.find import add_model_arguments, choose_model, open_config
from ovdet.hub.model_folder import write_model_folder
from ovdet.hub.push import check_can_push, complete_card, push_model_folder


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser)
    parser.add_argument("--card", required=True, metavar="F.md", help="the model card: data, licenses, figures, limits")
    parser.add_argument("--output", required=True, metavar="DIR", help="the folder to write")
    parser.add_argument("--push", metavar="OWNER/NAME", help="then upload the folder to the Hugging Face hub")
    parser.add_argument("--private", action="store_true", help="with --push: for yourself or your organization alone")
    parser.add_argument("--license", metavar="ID", help="with --push: such as apache-2.0 (default: the card's)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="overrides of the config")
    return parser.parse_intermixed_args()


@command
def main() -> None:
    arguments = parse_arguments()
    if not arguments.push and (arguments.private or arguments.license):
        raise InputError("expected --private and --license with --push OWNER/NAME, got no --push")
    if arguments.push:
        check_can_push(arguments.push)
    config_file, weights = choose_model(arguments.model, arguments.config_file, arguments.weights)
    try:
        card = Path(arguments.card).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"expected a model card, {arguments.card} cannot be read: {error}") from error
    if arguments.push:
        card = complete_card(card, arguments.license)
    config = open_config(config_file, [*arguments.overrides, "train.device=cpu"])
    content = write_model_folder(config, weights, require_path(arguments.output), card=card)
    size = sum(file.stat().st_size for file in Path(arguments.output).iterdir()) / 1e6
    print(f"{arguments.output}: {size:.1f} MB, names by teacher {content['teacher']['name']}")
    if arguments.push:
        name, address = push_model_folder(arguments.output, arguments.push, private=arguments.private)
        print(f"{name}: {address}")


if __name__ == "__main__":
    main()

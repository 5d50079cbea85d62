"""Average the weights of a detector before and after fine-tuning (WiSE-FT, arXiv:2109.01903).

ovdet average --before output/lite/base_detector/model_final.pth --share 0.7
    --after output/lite/ovdet_lite/model_final.pth --output output/lite/ovdet_lite/averaged.pth
ovdet average --before ovdet-lite-base48 --after output/lite/own_data/model_final.pth --shares 0.3,0.5,0.7,1
    --config-file output/lite/own_data/config.yaml --output output/lite/own_data/averaged.pth
    --annotations my_val.json --images photos --control-annotations instances_val.json --control-images coco
"""

from __future__ import annotations

import argparse

from ovdet.cli.arguments import add_config_argument, add_device_argument, add_json_argument, reports_on_stderr, say
from ovdet.errors import InputError
from ovdet.files import check_place


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--before", required=True, metavar="W", help="checkpoint before fine-tuning, or a model as of --model elsewhere"
    )
    add("--after", required=True, metavar="W", help="checkpoint after it")
    add("--output", required=True, metavar="W.pth", help="the file to write")
    add("--share", type=float, metavar="s", help="weight of --after, 0 to 1 (default: 0.5)")
    add("--shares", metavar="s,s", help="instead of --share: try these, and take the best for your names")
    add_config_argument(parser, "with --shares, of the detector")
    add("--annotations", metavar="X.json", help="with --shares, photos of your names that were not trained on")
    add("--images", metavar="DIR", help="the folder of these photos")
    add("--control-annotations", metavar="Y.json", help="with --shares, photos of names that should stay")
    add("--control-images", metavar="DIR", help="the folder of these photos")
    add("--max-loss", type=float, default=1.0, metavar="p", help="AP50 that these may lose (default: %(default)s)")
    add("--max-photos", type=int, metavar="N", help="of each json (default: all)")
    add_device_argument(parser)
    add_json_argument(parser)


def run(arguments: argparse.Namespace) -> None:
    from ovdet.hub.find import weights_file

    check_place(arguments.output)
    before = weights_file(arguments.before)
    needed = ("config_file", "annotations", "images", "control_annotations", "control_images")
    if arguments.shares is None:
        if odd := [_option(key) for key in (*needed, "max_photos") if getattr(arguments, key) is not None]:
            raise InputError(f"expected --shares with {odd[0]}, got none")
        from ovdet.engine.checkpoint import average_checkpoints

        share = 0.5 if arguments.share is None else arguments.share
        average_checkpoints(before, arguments.after, share, arguments.output)
        say(arguments, arguments.output, {"output": arguments.output, "share": share})
        return
    from ovdet.hub.find import find_model
    from ovdet.inference.averaging import Data, choose_share, compare_shares, write_share
    from ovdet.inference.predictor import OpenVocabPredictor

    if missing := [_option(key) for key in needed if not getattr(arguments, key)]:
        raise InputError(f"expected {', '.join(missing)} with --shares, got none")
    if not arguments.max_loss >= 0:
        raise InputError(f"expected --max-loss of 0 points or more, got {arguments.max_loss}")
    if arguments.share is not None:
        raise InputError("expected --share or --shares, got both")
    if not arguments.output.endswith(".pth"):
        raise InputError(f"expected a .pth file to write to, got {arguments.output}")
    try:
        shares = [float(part) for part in arguments.shares.split(",")]
    except ValueError:
        raise InputError(f'expected --shares as numbers, such as "0.5,1", got {arguments.shares!r}') from None

    def open_predictor(weights: str) -> OpenVocabPredictor:
        return OpenVocabPredictor.from_config(arguments.config_file, weights, device=arguments.device)

    first = open_predictor(before)
    if before != arguments.before:
        first = OpenVocabPredictor.from_config(*find_model(arguments.before), device=arguments.device)
    own = Data(arguments.annotations, arguments.images, arguments.max_photos)
    control = Data(arguments.control_annotations, arguments.control_images, arguments.max_photos)
    with reports_on_stderr(arguments.json):
        results = compare_shares(open_predictor, (before, first), arguments.after, shares, own, control)
    chosen = choose_share(results, arguments.max_loss)
    write_share(before, arguments.after, chosen.share, arguments.output)
    gained, lost = chosen.own - results[0].own, results[0].control - chosen.control
    line = f"{arguments.output}: share {chosen.share:g}, own names {gained:+.1f} AP50, control {-lost:+.1f}"
    tried = [each._asdict() for each in results]
    say(arguments, line, {"output": arguments.output, "share": chosen.share, "tried": tried})


def _option(key: str) -> str:
    return f"--{key.replace('_', '-')}"

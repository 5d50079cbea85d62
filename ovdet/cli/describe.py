"""Say in words what is in each region of photos, by a detector that learned to write captions; pictures and JSON.

ovdet describe photo.jpg --model output/lite/coca
ovdet describe photos --model output/lite/coca --regions 5 --output output/describe
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from ovdet.cli.arguments import add_device_argument, add_json_argument, add_model_arguments, say
from ovdet.errors import InputError
from ovdet.files import require_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("words", nargs="+", metavar="FILE|FOLDER|key=value", help="images, folders of them; overrides of the config")
    add("--output", default="output/describe", metavar="DIR", help="for pictures and detections.json (%(default)s)")
    add("--regions", type=int, default=10, metavar="N", help="at most so many of a photo (%(default)s)")
    add("--threshold", type=float, default=0.0, metavar="t", help="lowest probability of a text (%(default)s)")
    add_model_arguments(parser)
    add_device_argument(parser)
    add_json_argument(parser, "a line for each photo")


def run(arguments: argparse.Namespace) -> None:
    from ovdet.inference.describe import check_describes, describe_stream
    from ovdet.inference.load import load_predictor
    from ovdet.inference.media import find_inputs
    from ovdet.inference.results import check_output, write_results

    if arguments.regions < 1 or not 0 <= arguments.threshold <= 1:
        limits = f"--regions {arguments.regions} --threshold {arguments.threshold}"
        raise InputError(f"expected --regions of at least 1 and --threshold between 0 and 1, got {limits}")
    if not arguments.model and not arguments.config_file:
        raise InputError(
            "expected --model with a detector that writes captions, none comes with ovdet: "
            "`ovdet train --config-file lite/coca dataset.root=PATH` trains output/lite/coca"
        )
    output = Path(require_path(arguments.output))
    overrides = [word for word in arguments.words if "=" in word and not Path(word).exists()]
    inputs = [word for word in arguments.words if word not in overrides]
    if not inputs:
        raise InputError(f"expected images or folders of them, got overrides alone: {' '.join(overrides)}")
    for path in inputs:
        check_output(output, path)
    images, videos = find_inputs(inputs)
    if videos:
        raise InputError(f"expected images or folders of them, got a video: {videos[0].path}")
    chosen = {key: getattr(arguments, key) for key in ("model", "config_file", "weights", "device")}
    predictor = load_predictor(**chosen, overrides=overrides)
    check_describes(predictor)
    describe = partial(describe_stream, predictor, max_regions=arguments.regions, threshold=arguments.threshold)
    for image, path, found in write_results(describe, images, output):
        texts = "; ".join(f"{each['label']} {each['score']:.2f}" for each in found) or "nothing"
        say(arguments, f"{path}: {texts}", {"image": str(image), "output": str(path), **found.to_dict()})

"""Calibrate a detector's scores, so that one threshold does for trained and other names; write it as a model folder.

ovdet calibrate --model output/lite/mixture --card card.md --output my_model
    --set coco_new.json=photos --set other_names.json=more_photos
"""

from __future__ import annotations

import argparse

from ovdet.cli.arguments import (
    add_json_argument,
    add_model_arguments,
    add_overrides,
    parse_set,
    read_card,
    reports_on_stderr,
    say,
)
from ovdet.errors import InputError
from ovdet.files import require_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_model_arguments(parser)
    photos = (
        "COCO format and the folder of its photos, which the detector was not trained on; all things of its names have "
        "boxes. May be repeated; names that were trained and others are needed. Names without any box are taken for "
        "absent from all photos, against false alarms"
    )
    add("--set", dest="sets", action="append", required=True, metavar="X.json=DIR", help=photos)
    precision = "share of what is shown of trained names that is to be right, which gives the threshold (default: 0.5)"
    add("--precision", type=float, default=0.5, metavar="p", help=precision)
    add("--card", metavar="F.md", help="the model card (default: that of --model)")
    add("--output", required=True, metavar="DIR", help="the model folder to write")
    add_json_argument(parser)
    add_overrides(parser)


def run(arguments: argparse.Namespace) -> None:
    from dataclasses import asdict

    from ovdet.hub.find import choose_model, open_config
    from ovdet.hub.load import check_own
    from ovdet.hub.model_folder import check_model_folder, write_model_folder
    from ovdet.inference.calibrate import fit_calibration, measure, read_set, with_calibration
    from ovdet.inference.predictor import OpenVocabPredictor

    output = require_path(arguments.output)
    if not 0 < arguments.precision <= 1:
        raise InputError(f"expected --precision within (0, 1], got {arguments.precision}")
    sets = [parse_set(text) for text in arguments.sets]
    config_file, weights = choose_model(arguments.model, arguments.config_file, arguments.weights)
    config = open_config(config_file, [*arguments.overrides, "train.device=cpu"])
    check_own(config)
    text = read_card(arguments.card, config_file)
    check_model_folder(output)
    data = [read_set(*files) for files in sets]
    config = with_calibration(config, None)
    predictor = OpenVocabPredictor.of(config, weights)
    with reports_on_stderr(arguments.json):
        measured = measure(predictor, data)
    calibration, kinds = fit_calibration(measured, arguments.precision)
    write_model_folder(with_calibration(config, calibration), weights, output, card=text)
    line = arguments.output
    for name, kind in kinds.items():
        figures = f"threshold {kind.threshold:g}, precision {kind.precision:.2f}, recall {kind.recall:.2f}"
        line += f"; {kind.names} {name} names, {kind.objects} objects: {figures}"
    values = {key: kind._asdict() for key, kind in kinds.items()}
    say(arguments, line, {"output": arguments.output, "calibration": asdict(calibration), **values})

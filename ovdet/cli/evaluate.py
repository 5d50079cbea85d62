"""Evaluate a detector zero-shot on COCO-format data, with the class names of its json.

ovdet evaluate --annotations instances_val.json --images photos --output output/evaluation --model output/lite/vild
ovdet evaluate --annotations instances_val.json --images photos --output output/evaluation --split split.json
    --config-file lite/vild --weights output/lite/vild/model_final.pth --setting constrained
ovdet evaluate --images photos --output output/my --model ovdet-lite --classes my.safetensors --suggest-thresholds
"""

from __future__ import annotations

import argparse
import functools
import json

from ovdet.cli.arguments import (
    add_compile_argument,
    add_data_arguments,
    add_detector_arguments,
    add_int8_argument,
    add_runtime_argument,
    open_predictor,
    reports_on_stderr,
    say,
)
from ovdet.errors import InputError
from ovdet.files import require_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_data_arguments(parser, "COCO format; may be left out for --suggest-thresholds, a guess then", required=False)
    add("--output", required=True, metavar="DIR", help="folder for metrics, detections, plots and log")
    subsets = (
        "which classes are base, novel or ignored: figures come by subset, photos without an object of the asked "
        "names are left out, as OV-COCO does; with --lvis none are (default: all classes, all photos)"
    )
    add("--split", metavar="S.json", help=subsets)
    setting = "ask for base and novel names at once, or for the novel ones alone (default: generalized)"
    add("--setting", choices=("generalized", "constrained"), default="generalized", help=setting)
    add("--teacher", metavar="T", help="teacher that embeds the names (default: the config's)")
    add("--lvis", action="store_true", help="LVIS's federated AP; X.json is LVIS's (default: COCO's AP)")
    synonyms = "synonyms of the json's class names, of which the best counts: a .txt or .json file (default: none)"
    add("--vocabulary", metavar="FILE", help=synonyms)
    learned = "classes of the json that `ovdet learn` learned, instead of their names (default: none)"
    add("--classes", action="append", metavar="FILE", help=f"{learned}; may be repeated")
    negatives = "what looks more like these names is left out, as `ovdet detect` has it (default: none)"
    add("--negatives", metavar='"a,b"|FILE', help=negatives)
    thresholds = "write thresholds.csv and classes.safetensors: for each class the threshold of the best F1"
    add("--suggest-thresholds", action="store_true", help=thresholds)
    add(
        "--precision",
        type=float,
        metavar="p",
        help="the least that these thresholds are to give, instead of the best F1",
    )
    add("--masks", action="store_true", help="mask AP too (default: boxes only)")
    add("--max-detections", type=int, metavar="N", help="per image (default: the config's and the protocol's)")
    add_compile_argument(parser)
    add("--half", action="store_true", help="mixed precision: faster, AP may differ a little")
    add_int8_argument(parser)
    add_runtime_argument(parser)
    exported = "an .onnx file of this detector by `ovdet export`, for --runtime to run (default: it exports one)"
    add("--exported", metavar="F.onnx", help=exported)
    add_detector_arguments(parser, json="the figures")


def run(arguments: argparse.Namespace) -> None:
    if arguments.annotations is None:
        guess_thresholds(arguments)
    else:
        evaluate(arguments)


def guess_thresholds(arguments: argparse.Namespace) -> None:
    """Thresholds for --classes and the names of --vocabulary from photos without annotations.

    Raises:
        InputError: nothing is asked for, or something that needs annotations; and as of `suggest_without_labels`.
    """
    from ovdet.inference.suggest import CLASSES_FILE, suggest_without_labels
    from ovdet.learning.classes_file import load_all_classes
    from ovdet.text.classes import join_classes, parse_negatives
    from ovdet.text.vocabulary import Vocabulary

    keys = ("split", "lvis", "precision", "masks", "max_detections", "teacher")
    if given := [f"--{key.replace('_', '-')}" for key in keys if getattr(arguments, key)]:
        raise InputError(f"expected --annotations with {given[0]}, got none")
    if not arguments.suggest_thresholds or not (arguments.classes or arguments.vocabulary):
        raise InputError(
            "expected --annotations, or --suggest-thresholds with --classes or --vocabulary, got neither of them"
        )
    output = require_path(arguments.output)
    asked = [load_all_classes(arguments.classes)] if arguments.classes else []
    vocabulary = Vocabulary.load(arguments.vocabulary) if arguments.vocabulary else None
    predictor = open_predictor(arguments)
    if vocabulary is not None:
        asked.insert(0, predictor.embed(vocabulary, negatives=parse_negatives(arguments.negatives)))
    thresholds = suggest_without_labels(predictor, arguments.images, functools.reduce(join_classes, asked), output)
    line = f"{output}/{CLASSES_FILE}: thresholds of {len(thresholds)} classes, a guess from scores alone"
    say(arguments, line, {"output": output, "thresholds": thresholds, "guess": True})


def evaluate(arguments: argparse.Namespace) -> None:
    """Figures on annotated photos."""
    from ovdet.engine.config import override
    from ovdet.hub.find import choose_model, open_config
    from ovdet.inference.evaluate import evaluate_on
    from ovdet.learning.classes_file import load_all_classes
    from ovdet.text.classes import parse_negatives
    from ovdet.text.vocabulary import Vocabulary

    config_file, weights = choose_model(arguments.model, arguments.config_file, arguments.weights)
    chosen = {"teacher.name": arguments.teacher, "train.device": arguments.device}
    overrides = [*arguments.overrides, *(override(key, value) for key, value in chosen.items() if value)]
    with reports_on_stderr(arguments.json):
        results = evaluate_on(
            open_config(config_file, overrides),
            arguments.annotations,
            arguments.images,
            require_path(arguments.output),
            weights=weights,
            split=arguments.split,
            setting=arguments.setting,
            iou_types=("bbox", "segm") if arguments.masks else ("bbox",),
            max_detections=arguments.max_detections,
            lvis=arguments.lvis,
            vocabulary=Vocabulary.load(arguments.vocabulary) if arguments.vocabulary else None,
            learned=load_all_classes(arguments.classes) if arguments.classes else None,
            negatives=parse_negatives(arguments.negatives) or (),
            suggest_thresholds=arguments.suggest_thresholds,
            precision=arguments.precision,
            compile=arguments.compile,
            half=arguments.half,
            int8=arguments.int8,
            runtime=arguments.runtime,
            exported=arguments.exported,
        )
    if arguments.json:
        print(json.dumps(results))

"""Detect any names in photos, folders and videos; write annotated pictures or a video, and detections.json.

ovdet detect photo.jpg --names "red kite, wheel; tyre"
ovdet detect photos clip.mp4 --names names.txt --output output/detect --model output/lite/vild
ovdet detect photos --names names.txt --weights detector.onnx
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovdet.cli.arguments import (
    MODELS,
    add_compile_argument,
    add_config_argument,
    add_device_argument,
    add_half_argument,
    add_int8_argument,
    add_json_argument,
    add_runtime_argument,
    say,
)
from ovdet.errors import InputError
from ovdet.files import require_path
from ovdet.memory import imports_kept

if TYPE_CHECKING:
    from ovdet.inference.predictor import OpenVocabPredictor
    from ovdet.inference.tiles import TiledPredictor

LIMITS = ("threshold", "class_agnostic_iou", "max_containment")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    what = "images, folders of them, videos, any number of each (default: samples of scikit-image, scikit-learn)"
    add("words", nargs="*", metavar="FILE|FOLDER|key=value", help=f"{what}; overrides of the config")
    add("--input", nargs="*", action="extend", default=[], metavar="FILE|FOLDER", help="the same as an option")
    add("--output", default="output/detect", metavar="DIR", help="for pictures and detections.json (%(default)s)")
    add_name_arguments(parser)
    add_predictor_arguments(parser)
    add_limit_arguments(parser)
    add_json_argument(parser, "a line for each photo or video")


def add_name_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options for names and classes."""
    add = parser.add_argument
    names = "names separated by commas, synonyms of a name by semicolons; or a .txt, .json or .safetensors file"
    add("--names", "--vocabulary", dest="vocabulary", metavar='"a,b;c"|FILE', help=names)
    classes = "classes that `ovdet learn` or `ovdet evaluate` wrote, alone or beside --names; may be repeated"
    add("--classes", action="append", metavar="FILE", help=classes)
    exemplar = "photos that a thing fills, or boxes in photos, as a query beside the names; may be repeated"
    add("--exemplar", action="append", default=[], metavar='"a=x.jpg,y.jpg[x1,y1,x2,y2]"', help=exemplar)
    unlike = (
        'regions that match one of these better are dropped; "" for none (default: training classes unlike the names)'
    )
    add("--negatives", metavar='"a,b"', help=unlike)


def add_predictor_arguments(parser: argparse.ArgumentParser) -> None:
    """The detector that finds it."""
    add = parser.add_argument
    add("--model", metavar="M", help=f"{MODELS} (default: ovdet-lite)")
    add_config_argument(parser, "of the detector, instead of --model")
    add("--weights", metavar="W", help="the config's checkpoint (default: its run's last), or an .onnx file alone")
    add("--teacher", metavar="T", help="teacher that embeds the names (default: the config's)")
    add_compile_argument(parser)
    add_half_argument(parser)
    add_int8_argument(parser)
    add_runtime_argument(parser)
    batch = "photos of one shape that go through the network together (default: 1; more helps GPUs)"
    add("--batch-size", type=int, default=1, metavar="N", help=batch)
    tiles = "look at larger photos in overlapping tiles of so many pixels too, for small things; takes a multiple"
    add("--tiles", type=int, metavar="SIDE", help=tiles)
    add_device_argument(parser)


def add_limit_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that filter detections."""
    add = parser.add_argument
    lowest = "lowest score (default: the model's; uncalibrated: 0.3 for trained names, 0.1 for learned, else 0.08)"
    add("--threshold", type=float, metavar="t", help=lowest)
    iou = (
        "drop boxes that overlap more with one at least twice as sure, whatever their names; 1 keeps all (default: 0.5)"
    )
    add("--class-agnostic-iou", type=float, default=0.5, metavar="IOU", help=iou)
    share = "drop boxes with a larger share inside a better one of their name; 1 keeps all (default: 0.9)"
    add("--max-containment", type=float, default=0.9, metavar="SHARE", help=share)


def run(arguments: argparse.Namespace) -> None:
    with imports_kept():
        from ovdet.inference.media import find_inputs
        from ovdet.inference.results import check_output, write_results, write_video

    limits = checked_limits(arguments)
    output = Path(require_path(arguments.output))
    inputs, overrides = sort_words(arguments)
    for path in inputs:
        check_output(output, path)
    images, videos = find_inputs(inputs)
    predictor = predictor_for(arguments, overrides)
    stream = partial(predictor.stream, batch_size=arguments.batch_size, **limits)
    for position, video in enumerate(videos, start=1):
        folder = output if len(videos) == 1 and not images else output / f"video_{position}"
        path, frames, frames_with = write_video(stream(video), video, folder, names=predictor.names)
        most = ", ".join(f"{name} in {number}" for name, number in frames_with.most_common(5)) or "nothing"
        said = f" of {video.num_frames}" if frames < (video.num_frames or 0) else ""  # the rest cannot be read
        line = f"{path}: {frames}{said} frame{'' if frames == 1 else 's'}; {most}"
        say(arguments, line, {"video": str(video.path), "output": str(path), "frames": frames, "names": frames_with})
    for image, path, found in write_results(stream, images, output, names=predictor.names):
        best = ", ".join(f"{d['label']} {d['score']:.2f}" for d in list(found)[:5])
        best = f"best: {best}" if best else under_threshold(found.best_missed, predictor.trained_names)
        line = f"{path}: {len(found)} detection{'' if len(found) == 1 else 's'}; {best}"
        say(arguments, line, {"image": str(image), "output": str(path), **found.to_dict()})


def checked_limits(arguments: argparse.Namespace) -> dict[str, float | None]:
    """Values of `add_limit_arguments` as keywords of a predictor.

    Raises:
        InputError: one is outside of [0, 1].
    """
    limits = {key: getattr(arguments, key) for key in LIMITS}
    for option, value in limits.items():
        if value is not None and not 0 <= value <= 1:
            raise InputError(f"expected --{option.replace('_', '-')} between 0 and 1, got {value}")
    return limits


def sort_words(arguments: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Words with and without --input as files and overrides.

    Raises:
        InputError: one is neither: names that the shell has taken apart.
    """
    given = [*arguments.input, *arguments.words]  # photos/*.jpg may stand behind the names, overrides behind the photos
    overrides = [text for text in given if "=" in text and not Path(text).exists()]
    inputs = [text for text in given if text not in overrides and (text in arguments.input or _is_path(text))]
    words = [text for text in given if text not in (*inputs, *overrides)]
    if words:
        names = ", ".join([arguments.vocabulary or "", *words])
        told = f'files or folders that exist, or names in quotes with commas between, --names "{names}"'
        raise InputError(f"expected {told}, got {' '.join(words)}")
    return inputs, overrides


def _is_path(text: str) -> bool:
    """Whether a word was meant for a file: it is one, or looks like one that is missing."""
    from ovdet.data.images import SUFFIXES
    from ovdet.inference.media import VIDEO_SUFFIXES

    return Path(text).exists() or os.sep in text or Path(text).suffix.lower() in SUFFIXES | VIDEO_SUFFIXES


def predictor_for(arguments: argparse.Namespace, overrides: Sequence[str] = ()) -> OpenVocabPredictor | TiledPredictor:
    """The detector that a command line names, with the names that it asks for as its default.

    Raises:
        InputError: one of them is missing or cannot be used.
    """
    with imports_kept():
        from ovdet.engine.config import override
        from ovdet.inference.load import load_predictor
        from ovdet.inference.tiles import TiledPredictor
        from ovdet.learning.classes_file import load_all_classes
        from ovdet.learning.exemplars import parse_exemplars
        from ovdet.text.classes import join_classes, parse_negatives

    if arguments.vocabulary is None and arguments.classes is None and not arguments.exemplar:
        raise InputError("expected --names, --classes or --exemplar, got none of them")
    if arguments.batch_size < 1 or (arguments.batch_size > 1 and arguments.tiles is not None):
        limit = "at least 1" if arguments.tiles is None else "1 with --tiles"
        raise InputError(f"expected --batch-size of {limit}, got {arguments.batch_size}")
    vocabulary = None if arguments.vocabulary is None else _parse_names(arguments.vocabulary)
    learned = load_all_classes(arguments.classes) if arguments.classes else None
    exemplars = parse_exemplars(arguments.exemplar)
    overrides = [*overrides, *([override("teacher.name", arguments.teacher)] if arguments.teacher else [])]
    keys = ("model", "config_file", "weights", "device", "compile", "half", "int8", "runtime")
    chosen = {key: getattr(arguments, key) for key in keys}
    predictor = load_predictor(**chosen, overrides=overrides)
    if vocabulary is not None:
        predictor.set_vocabulary(vocabulary, negatives=parse_negatives(arguments.negatives))
    if learned is not None:
        predictor.check_detector(learned)
    more = [] if learned is None else [learned]
    more += [predictor.embed_exemplars(exemplars)] if exemplars else []
    for classes in more:
        predictor.classes = classes if predictor.classes is None else join_classes(predictor.classes, classes)
    return TiledPredictor(predictor, arguments.tiles) if arguments.tiles is not None else predictor


def _parse_names(given: str) -> Any:
    from ovdet.text.embeddings import load_embeddings
    from ovdet.text.vocabulary import parse_vocabulary

    return (load_embeddings if given.endswith(".safetensors") else parse_vocabulary)(given)


def under_threshold(missed: tuple[str, float] | None, trained_names: Sequence[str]) -> str:
    """A line for a photo without detections: the best name and score below the threshold."""
    from ovdet.text.class_names import names_among

    if missed is None:
        return "nothing below the threshold either"
    name, score = missed
    trained = not trained_names or names_among([name], trained_names)
    return f"best below the threshold: {name} {score:.2g}" + ("" if trained else ", a name that was not trained")

"""Detect any names in images or a video; write annotated pictures or a video, and detections.json.

tools/demo.py --input photo.jpg --vocabulary "red kite, wheel; tyre" --output output/demo
tools/demo.py --input photos clip.mp4 --vocabulary names.txt --output output/demo --model output/lite/vild
tools/demo.py --input photos --vocabulary names.txt --output output/demo --weights detector.onnx
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ovdet.data.images import SUFFIXES
from ovdet.engine.config import override
from ovdet.errors import InputError, command
from ovdet.files import require_path
from ovdet.inference.load import load_predictor
from ovdet.inference.media import VIDEO_SUFFIXES, find_inputs
from ovdet.inference.results import check_output, write_results, write_video
from ovdet.learning.classes_file import load_classes
from ovdet.text.class_names import names_among
from ovdet.text.classes import parse_negatives
from ovdet.text.embeddings import load_embeddings
from ovdet.text.vocabulary import parse_vocabulary


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    what = "images, folders of them, videos, any number of each (default: scikit-image's samples)"
    add("--input", nargs="*", action="extend", default=[], metavar="FILE|FOLDER", help=what)
    names = "names separated by commas, synonyms of a name by semicolons; or a .txt, .json or .safetensors file"
    add("--vocabulary", metavar='"a,b;c"|FILE', help=names)
    add("--classes", metavar="FILE", help="classes that tools/learn.py learned, alone or beside --vocabulary")
    add("--output", required=True, metavar="DIR", help="folder for pictures and detections.json")
    add(
        "--model",
        metavar="M",
        help="a model's or run's folder, hf://OWNER/NAME, ovdet-lite, ovdet-lite-base48 (default: ovdet-lite)",
    )
    add("--config-file", metavar="F", help="of the detector, instead of --model")
    add("--weights", metavar="W", help="the config's checkpoint (default: its run's last), or an .onnx file alone")
    add("--teacher", metavar="T", help="teacher that embeds the names (default: the config's)")
    add(
        "--threshold",
        type=float,
        metavar="t",
        help="lowest score (default: 0.3 for names it was trained on, else 0.08)",
    )
    unlike = (
        'regions that match one of these better are dropped; "" for none (default: training classes unlike the names)'
    )
    add("--negatives", metavar='"a,b"', help=unlike)
    iou = (
        "drop boxes that overlap more with one at least twice as sure, whatever their names; 1 keeps all (default: 0.5)"
    )
    add("--class-agnostic-iou", type=float, default=0.5, metavar="IOU", help=iou)
    share = "drop boxes with a larger share inside a better one of their name; 1 keeps all (default: 0.9)"
    add("--max-containment", type=float, default=0.9, metavar="SHARE", help=share)
    add("--compile", action="store_true", help="torch.compile the backbone: takes a minute, then a little faster")
    add("--half", action="store_true", help="mixed precision: faster, nearly the same detections")
    add("--device", metavar="D", help="cpu, cuda, cuda:1, ... (default: a GPU where there is one)")
    add("overrides", nargs="*", metavar="key=value", help="overrides of the config")
    of_version_0_1 = dict(default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    add("--distractors", dest="negatives", **of_version_0_1)
    add("--overlap", type=float, dest="class_agnostic_iou", **of_version_0_1)
    add("--contained", type=float, dest="max_containment", **of_version_0_1)
    return parser.parse_intermixed_args()


def is_path(text: str) -> bool:
    """Whether a word was meant for a file: it is one, or looks like one that is missing."""
    return Path(text).exists() or Path(text).suffix.lower() in SUFFIXES | VIDEO_SUFFIXES


def check_words(words: Sequence[str], vocabulary: str) -> None:
    """Refuse words that are neither files nor `key=value`: names that the shell has taken apart.

    Raises:
        InputError: there are some.
    """
    if words:
        names = ", ".join([vocabulary, *words])
        raise InputError(f'expected names in quotes with commas between, --vocabulary "{names}", got {" ".join(words)}')


def under_threshold(missed: tuple[str, float] | None, training_classes: Sequence[str]) -> str:
    """What to say where nothing is found: the best name and score below the threshold."""
    if missed is None:
        return "nothing below the threshold either"
    name, score = missed
    trained = not training_classes or names_among([name], training_classes)
    return f"best below the threshold: {name} {score:.2g}" + ("" if trained else ", a name that was not trained")


@command
def main() -> None:
    arguments = parse_arguments()
    limits = {key: getattr(arguments, key) for key in ("threshold", "class_agnostic_iou", "max_containment")}
    for option, value in limits.items():
        if value is not None and not 0 <= value <= 1:
            raise InputError(f"expected --{option.replace('_', '-')} between 0 and 1, got {value}")
    output = Path(require_path(arguments.output))
    # photos/*.jpg may stand behind the names, overrides behind the photos
    given = [*arguments.input, *arguments.overrides]
    overrides = [text for text in given if "=" in text and not Path(text).exists()]
    inputs = [text for text in given if text in arguments.input or (arguments.input and is_path(text))]
    inputs = [text for text in inputs if text not in overrides]
    check_words([text for text in given if text not in (*inputs, *overrides)], arguments.vocabulary or "")
    for path in inputs:
        check_output(output, path)
    images, videos = find_inputs(inputs)
    if arguments.vocabulary is None and arguments.classes is None:
        raise InputError("expected --vocabulary, --classes or both, got neither")
    if arguments.vocabulary is not None:
        embedded = arguments.vocabulary.endswith(".safetensors")
        vocabulary = (load_embeddings if embedded else parse_vocabulary)(arguments.vocabulary)
    learned = load_classes(arguments.classes) if arguments.classes else None
    overrides += [override("teacher.name", arguments.teacher)] if arguments.teacher else []
    chosen = {key: getattr(arguments, key) for key in ("model", "config_file", "weights", "device", "compile", "half")}
    predictor = load_predictor(**chosen, overrides=overrides)
    if arguments.vocabulary is not None:
        predictor.set_vocabulary(vocabulary, negatives=parse_negatives(arguments.negatives))
    if learned is not None:
        predictor.classes = learned if predictor.classes is None else predictor.classes.with_learned(learned)
    detect = partial(predictor, **limits)
    for position, video in enumerate(videos, start=1):
        folder = output if len(videos) == 1 and not images else output / f"video_{position}"
        path, frames, frames_with = write_video(detect, video, folder, names=predictor.names)
        most = ", ".join(f"{name} in {number}" for name, number in frames_with.most_common(5)) or "nothing"
        said = f" of {video.num_frames}" if frames < (video.num_frames or 0) else ""  # the rest cannot be read
        print(f"{path}: {frames}{said} frame{'' if frames == 1 else 's'}; {most}")
    for path, found in write_results(detect, images, output, names=predictor.names):
        best = ", ".join(f"{d['label']} {d['score']:.2f}" for d in list(found)[:5])
        best = f"best: {best}" if best else under_threshold(found.best_missed, predictor.training_classes)
        print(f"{path}: {len(found)} detection{'' if len(found) == 1 else 's'}; {best}")


if __name__ == "__main__":
    main()

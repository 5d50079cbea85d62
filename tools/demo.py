"""Boxes for any names on any photos: an annotated picture each, and detections.json.

tools/demo.py --input photo.jpg --vocabulary "red kite, wheel" --output output/demo
    --config-file configs/lite/vild.py --weights output/lite/vild/model_final.pth
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from ovdet.demo import QUICK_CONFIG, find_images, load_predictor, write_results
from ovdet.errors import InputError, command
from ovdet.text import load_embeddings, parse_vocabulary


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", required=True, metavar="IMAGE|FOLDER", help="a photo, or a folder of photos")
    parser.add_argument(
        "--vocabulary",
        required=True,
        metavar='"a,b,c"|FILE',
        help="names, or a file of them: .txt, .json, or .safetensors by embed_vocabulary.py",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="pictures and detections.json go here")
    parser.add_argument("--config-file", metavar="F", help=f"of the detector (default: {QUICK_CONFIG} and its weights)")
    parser.add_argument("--weights", metavar="W", help="its checkpoint (default: its run's last), or an .onnx file")
    parser.add_argument("--teacher", metavar="T", help="whose text space it is (default: the config's)")
    parser.add_argument("--threshold", type=float, default=0.3, metavar="t", help="lowest score (default: 0.3)")
    parser.add_argument(
        "--overlap",
        type=float,
        default=0.6,
        metavar="IOU",
        help="of boxes of different names that overlap more, the best alone is kept; 1 keeps all (default: 0.6)",
    )
    parser.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1, ... (default: a GPU where there is one)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="overrides of the config")
    return parser.parse_intermixed_args()


@command
def main() -> None:
    arguments = parse_arguments()
    for option in ("threshold", "overlap"):
        if not 0 <= getattr(arguments, option) <= 1:
            raise InputError(f"expected --{option} between 0 and 1, got {getattr(arguments, option)}")
    images = find_images(arguments.input)
    embedded = arguments.vocabulary.endswith(".safetensors")
    vocabulary = (load_embeddings if embedded else parse_vocabulary)(arguments.vocabulary)
    predictor = load_predictor(
        arguments.config_file,
        arguments.weights,
        overrides=[*arguments.overrides, *([f"teacher.name={arguments.teacher}"] if arguments.teacher else [])],
        device=arguments.device,
    )
    predictor.set_vocabulary(vocabulary)
    detect = partial(predictor, threshold=arguments.threshold, overlap=arguments.overlap)
    results = write_results(detect, images, Path(arguments.output))
    for path, found in results:
        best = ", ".join(f"{d['label']} {d['score']:.2f}" for d in list(found)[:5]) or "nothing"
        print(f"{path}: {len(found)} detections; best: {best}")


if __name__ == "__main__":
    main()

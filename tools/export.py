"""Export a detector to one file for onnxruntime or PyTorch: image and class embeddings in, detections out.

tools/export.py --model output/lite/vild --format onnx --output output/vild.onnx
"""

from __future__ import annotations

import argparse

from ovdet.errors import command
from ovdet.export.write import FORMATS, export_detector
from ovdet.hub.find import add_model_arguments, choose_model, open_config


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser)
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="onnx",
        help="onnx (.onnx), onnx_int8 (smaller, nearly the same detections), or torch_export (.pt2) (default: onnx)",
    )
    parser.add_argument("--output", required=True, metavar="F", help="the file to write")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="overrides of the config")
    return parser.parse_intermixed_args()


@command
def main() -> None:
    arguments = parse_arguments()
    config_file, weights = choose_model(arguments.model, arguments.config_file, arguments.weights)
    config = open_config(config_file, [*arguments.overrides, "train.device=cpu"])
    description = export_detector(config, weights, arguments.output, FORMATS[arguments.format])
    print(f"{arguments.output}: names by teacher {description['teacher']}, {description['image']}")


if __name__ == "__main__":
    main()

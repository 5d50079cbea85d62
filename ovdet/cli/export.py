"""Export a detector to one file for onnxruntime or PyTorch: image and class embeddings in, detections out.

ovdet export --model output/lite/vild --format onnx --output output/vild.onnx
ovdet export --model ovdet-lite --format openvino_int8 --photos photos --output lite_int8.onnx
"""

from __future__ import annotations

import argparse

from ovdet.cli.arguments import add_json_argument, add_model_arguments, add_overrides, say

_FORMATS = ("onnx", "onnx_int8", "openvino_int8", "torch_export")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    what = (
        "onnx (.onnx), onnx_int8 (smaller, nearly the same detections), openvino_int8 (.onnx; fastest on a CPU with "
        "--runtime openvino, nearly the same detections), or torch_export (.pt2) (default: onnx)"
    )
    parser.add_argument("--format", choices=_FORMATS, default="onnx", help=what)
    photos = "for openvino_int8: such as it will see; up to a hundred decide how the 8 bits are used"
    parser.add_argument("--photos", metavar="DIR", help=photos)
    parser.add_argument("--output", required=True, metavar="F", help="the file to write")
    add_json_argument(parser)
    add_overrides(parser)


def run(arguments: argparse.Namespace) -> None:
    from ovdet.data.images import find_images
    from ovdet.export.write import FORMATS, export_detector
    from ovdet.hub.find import choose_model, open_config

    config_file, weights = choose_model(arguments.model, arguments.config_file, arguments.weights)
    config = open_config(config_file, [*arguments.overrides, "train.device=cpu"])
    photos = find_images(arguments.photos) if arguments.photos else ()
    description = export_detector(config, weights, arguments.output, FORMATS[arguments.format], photos=photos)
    line = f"{arguments.output}: names by teacher {description['teacher']}, {description['image']}"
    say(arguments, line, {"output": arguments.output, **description})

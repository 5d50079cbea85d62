"""Writing a trained detector as ONNX or as a `torch.export` program.

Both hold the whole detector with its NMS (graph.py), take image and vocabulary as inputs, whose H, W and K are free,
and carry a description (json, under "ovdet" in ONNX's metadata, "ovdet.json" in the other) of what these must be.

Shape letters: H, W of the photo, K classes of the vocabulary, D embedding width.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.config import instantiate
from detectron2.data import transforms as T
from detectron2.structures import Boxes, Instances
from omegaconf import DictConfig
from torch.export import Dim, ExportedProgram

from ovdet.errors import InputError, first_line
from ovdet.export.graph import DetectionGraph
from ovdet.export.proposals import check_proposals
from ovdet.export.quantize import quantize_linear_layers, quantize_network
from ovdet.files import atomic_write, check_place
from ovdet.hub.load import check_own, load_detector
from ovdet.hub.model_folder import read_resize
from ovdet.inference.photo import Photo, resized, to_rgb
from ovdet.modeling.backbones.swin import SwinBackbone
from ovdet.modeling.detector import OpenVocabRCNN
from ovdet.modeling.fingerprint import detector_fingerprint
from ovdet.modeling.region_embedding import embed_images
from ovdet.progress import track
from ovdet.quiet import quiet_libraries

DESCRIPTION = "ovdet"
FORMAT = "ovdet detector 1"
LEARNED_INPUTS = ("learned_weights", "learned_biases")
_NEVER = -1e4  # logit of a row that finds nothing
_MAX_SIDE = 16384  # pixels; tracing wants a bound
_TRACED_NAMES = 65
MAX_PHOTOS = 100  # that ranges are taken from


@torch.inference_mode(False)  # of the caller: what is made in it cannot be traced
def export_detector(
    config: DictConfig, weights: str, output: str | Path, form: Form, *, photos: Sequence[Photo] = ()
) -> dict[str, Any]:
    """Write a trained detector as one file.

    Args:
        config: of the detector, see `load_config`.
        weights: as for `load_detector`.
        output: the file to write.
        form: one of FORMATS.
        photos: files, images or arrays for a form that takes photos: the ranges of values on up to MAX_PHOTOS of them
            decide how 8 bits are used.

    Returns:
        The description that is in the file.

    Raises:
        InputError: the place cannot be written to or its name does not fit the format, a package is missing, config,
            weights or photos are not there, there are photos for another form, or the method cannot be exported.
    """
    check_own(config)
    if form.takes_photos != (len(photos) > 0):
        wanted = "no photos for this format" if photos else "photos, whose ranges of values it needs, got none"
        raise InputError(f"expected {wanted}")
    _check_output(Path(output), form)
    resize = read_resize(instantiate(config.dataloader.test.mapper.augmentations))
    images = {"images": _resized_photos(photos, resize)} if form.takes_photos else {}
    detector, embed_names, header = load_detector(config, weights)
    calibration = getattr(detector.roi_heads, "calibration", None)
    description = {
        "format": FORMAT,
        "version": importlib.import_module(__name__.partition(".")[0]).__version__,
        "teacher": embed_names.teacher_name,
        "width": embed_names.width,
        "fingerprint": header.get("fingerprint") or embed_names.fingerprint,
        "templates": embed_names.templates,
        "training_classes": list(header.get("training_classes", ())),
        "learned_classes": list(header.get("learned_classes", ())),
        "detector": detector_fingerprint(detector),
        "resize": resize,
        "image": "uint8 RGB (3, H, W)",
        "calibration": None if calibration is None else dataclasses.asdict(calibration),
    }
    programs: list[ExportedProgram] = []
    contents: list[bytes] = []
    steps = [
        lambda: programs.append(
            trace(detector, tells_base=bool(description["training_classes"]), with_learned=form.takes_learned)
        ),
        lambda: contents.append(form.pack(programs[0], json.dumps(description), **images)),
        lambda: atomic_write(output, contents[0]),
    ]
    for step in track(steps, "exporting"):
        step()
    return description


def _resized_photos(photos: Sequence[Photo], resize: Mapping[str, int]) -> list[np.ndarray]:
    """Up to MAX_PHOTOS of them, evenly spread, as (3, H, W) uint8 RGB."""
    augmentation = T.ResizeShortestEdge(**resize)
    chosen = np.linspace(0, len(photos) - 1, min(len(photos), MAX_PHOTOS)).round().astype(int)
    return [resized(to_rgb(photos[index]), augmentation).transpose(2, 0, 1).copy() for index in chosen]


def _check_output(output: Path, form: Form) -> None:
    if output.suffix != form.suffix:
        raise InputError(f"expected an output file *{form.suffix} for this format, got {output}")
    check_place(output)
    check_packages(form.packages)


def check_packages(names: tuple[str, ...]) -> None:
    """Refuse to begin without a package of the extras "export" and "openvino".

    Raises:
        InputError: one is not installed.
    """
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"expected {', '.join(missing)} to be installed, run: pip install {' '.join(missing)}")


def trace(detector: OpenVocabRCNN, *, tells_base: bool, with_learned: bool = False) -> ExportedProgram:
    """The detector as a program of torch.export, H, W and K free.

    Args:
        detector: in evaluation mode, on the CPU.
        tells_base: whether it is known which classes were trained on; then a fusion of scores that weighs base and
            novel classes differently gets a third input `is_base` (K,).
        with_learned: whether it has the inputs `learned_weights` (L, W) and `learned_biases` (L,), L free.

    Raises:
        InputError: a method that is no graph, or a detector on another device or with layers that do not trace.
    """
    if not isinstance(detector, OpenVocabRCNN):
        raise InputError(
            f"expected an open-vocabulary detector, got {type(detector).__name__}, whose classes are fixed"
        )
    if detector.device.type != "cpu":
        raise InputError(f"expected a detector on the CPU, got one on {detector.device}: set train.device=cpu")
    heads = detector.roi_heads
    if heads.region_teacher is not None:
        raise InputError("expected a detector that scores by itself, got one that asks a teacher about crops")
    if heads.soft_nms is not None:
        raise InputError("expected a detector with NMS, got one with Soft-NMS in its place, which does not export")
    check_proposals(detector.proposal_generator)
    if detector.backbone.size_divisibility < 2 or any(isinstance(part, SwinBackbone) for part in detector.modules()):
        raise InputError("expected a detector with a pyramid on convolutions, got a C4 detector's or Swin's backbone")
    width = heads.box_predictor.classifier.width
    inputs = {"image": torch.zeros(3, 320, 416, dtype=torch.uint8), "vocabulary": torch.eye(_TRACED_NAMES, width)}
    names = Dim("K", min=1)
    shapes = {"image": {1: Dim("H", max=_MAX_SIDE), 2: Dim("W", max=_MAX_SIDE)}, "vocabulary": {0: names}}
    if tells_base and heads.score_fusion.tells_base:
        inputs["is_base"], shapes["is_base"] = torch.zeros(_TRACED_NAMES, dtype=torch.bool), {0: names}
    if with_learned:
        rows = Dim("L", min=1)
        inputs |= {"learned_weights": torch.zeros(3, features_width(detector)), "learned_biases": torch.zeros(3)}
        shapes |= {"learned_weights": {0: rows}, "learned_biases": {0: rows}}
    graph = DetectionGraph(detector).eval()
    with (
        quiet_libraries(),
        torch.no_grad(),
        torch.backends.mkldnn.flags(enabled=False),
    ):  # whose choice of layers asks for sizes
        given = dict(dynamic_shapes=shapes, strict=False, prefer_deferred_runtime_asserts_over_guards=True)
        try:
            program = torch.export.export(graph, (), inputs, **given)
        except Exception as error:  # tracing has families of errors of its own, and pages of text in each
            raise InputError(f"expected a detector that torch.export traces, got: {first_line(error, 200)}") from error
    _drop_assertions(program)
    return program


@torch.no_grad()
def features_width(detector: OpenVocabRCNN) -> int:
    """W, how many numbers learned rows look at."""
    inputs = {"image": torch.zeros(3, 64, 64, dtype=torch.uint8), "height": 64, "width": 64}
    images = detector.preprocess_image([inputs])
    features = detector.backbone(images.tensor)
    box = Instances((64, 64))
    box.proposal_boxes, box.objectness_logits = Boxes(torch.tensor([[8.0, 8, 56, 56]])), torch.zeros(1)
    return embed_images(detector.roi_heads, features, [box])[0].features.shape[1]


def _drop_assertions(program: ExportedProgram) -> None:
    """Tracing assumes, and the program would insist, that there are regions and that NMS leaves two of them at least.

    It computes the right thing without them too. Stack traces, which name folders of this machine, go as well.
    """
    graph = program.graph_module.graph
    for check in graph.find_nodes(op="call_function", target=torch.ops.aten._assert_scalar.default):
        graph.erase_node(check)
    graph.eliminate_dead_code()  # what they compared
    for node in graph.nodes:
        node.meta.pop("stack_trace", None)
    program.graph_module.recompile()


def pack_torch_export(program: ExportedProgram, description: str) -> bytes:
    """The bytes of a .pt2 file."""
    stream = io.BytesIO()
    with quiet_libraries():
        torch.export.save(program, stream, extra_files={f"{DESCRIPTION}.json": description})
    return stream.getvalue()


def pack_onnx(program: ExportedProgram, description: str) -> bytes:
    """The bytes of an .onnx file."""
    names = ("boxes", "scores", "classes", "masks")[: len(program.graph_signature.user_outputs)]
    with quiet_libraries(), torch.no_grad(), torch.backends.mkldnn.flags(enabled=False):
        model = torch.onnx.export(program, (), dynamo=True, output_names=names, verbose=False).model
    for node in model.graph:
        node.metadata_props.clear()
    model.metadata_props[DESCRIPTION] = description
    _default_learned_rows(model)
    return importlib.import_module("onnx_ir").to_proto(model).SerializeToString()


def _default_learned_rows(model: Any) -> None:
    """One learned row that finds nothing, in place: an ONNX file can be run without the inputs of learned rows."""
    onnx_ir = importlib.import_module("onnx_ir")
    for value in model.graph.inputs:
        if value.name in LEARNED_INPUTS:
            shape = [1, *(size for size in value.shape if isinstance(size, int))]
            nothing = np.full(shape, 0 if value.name == "learned_weights" else _NEVER, dtype=np.float32)
            value.const_value = onnx_ir.tensor(nothing, name=value.name)
            model.graph.register_initializer(value)


def pack_onnx_int8(program: ExportedProgram, description: str) -> bytes:
    """The bytes of a smaller .onnx file."""
    with quiet_libraries():
        return quantize_linear_layers(pack_onnx(program, description))


def pack_openvino_int8(program: ExportedProgram, description: str, images: Sequence[np.ndarray]) -> bytes:
    """The bytes of an .onnx file for OpenVINO, whose network is in 8 bits by the ranges of values on some images.

    Its samples' names are made up: the network but for its scores sees none.
    """
    placeholders = {node.name: node.meta["val"] for node in program.graph.find_nodes(op="placeholder")}
    names = {"vocabulary": np.eye(_TRACED_NAMES, placeholders["vocabulary"].shape[1], dtype=np.float32)}
    if "is_base" in placeholders:
        names["is_base"] = np.zeros(_TRACED_NAMES, dtype=bool)
    return quantize_network(pack_onnx(program, description), [{"image": image, **names} for image in images])


class Form(NamedTuple):
    """A file format.

    Attributes:
        suffix: of its files.
        packages: that writing it needs.
        pack: program, description and, where it takes photos, images -> the file's bytes.
        takes_learned: whether its programs take learned rows.
        takes_photos: whether it does.
    """

    suffix: str
    packages: tuple[str, ...]
    pack: Callable[..., bytes]
    takes_learned: bool = True
    takes_photos: bool = False


FORMATS = {
    "onnx": Form(".onnx", ("onnx", "onnxscript"), pack_onnx),
    "onnx_int8": Form(".onnx", ("onnx", "onnxscript", "onnxruntime"), pack_onnx_int8),
    "openvino_int8": Form(
        ".onnx", ("onnx", "onnxscript", "onnxruntime", "nncf"), pack_openvino_int8, takes_photos=True
    ),
    "torch_export": Form(".pt2", (), pack_torch_export, takes_learned=False),
}

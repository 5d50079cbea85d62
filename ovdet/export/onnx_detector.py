"""Running an exported detector with onnxruntime, behind the predictor that runs trained ones.

Shape letters: H, W of the resized photo; N detections;
S side of a mask.
"""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances

from ovdet.class_embeddings import NEGATIVE, ClassEmbeddings
from ovdet.errors import InputError, first_line
from ovdet.export.runtimes import OpenvinoSession
from ovdet.export.write import DESCRIPTION, FORMAT, LEARNED_INPUTS, check_packages
from ovdet.hub.model_folder import Resize, Templates, Width
from ovdet.inference.predictor import OpenVocabPredictor
from ovdet.modeling.calibration import ScoreCalibration
from ovdet.modeling.nms import nms_per_class
from ovdet.text.embedder import NameEmbedder
from ovdet.typed import decoded

_SAME_OBJECT = 0.5  # IoU of boxes of one class, from its synonyms


class OnnxDetector:
    """An exported detector, called like OpenVocabRCNN."""

    input_format = "RGB"

    def __init__(self, session: Any, calibration: ScoreCalibration | None = None) -> None:
        """
        Args:
            session: onnxruntime's InferenceSession of a file by ovdet export, or an OpenvinoSession.
            calibration: of the graph's scores, which are as the detector has them before; None for none.
        """
        self._session = session
        self._calibration = calibration
        self.default_thresholds = None if calibration is None else calibration.thresholds
        self._takes_base = any(value.name == "is_base" for value in session.get_inputs())
        optional = {value.name for value in session.get_overridable_initializers()}
        self._takes_learned = set(LEARNED_INPUTS) <= optional

    def __call__(self, batched_inputs: list[dict], *, classes: ClassEmbeddings) -> list[dict]:
        """As OpenVocabRCNN: "image" (3, H, W) uint8, "height" and "width" of the photo -> "instances" in it.

        The graph finds rows, negatives too, and counts them as detections; classes are made of them afterwards. Where
        it asks which rows are base and `classes` do not say, none are.
        """
        if classes.learned is not None and not self._takes_learned:
            raise InputError(
                "expected a runtime that takes learned classes: torch, or onnx with a file of this version"
            )
        classes = _with_a_row(classes)
        vocabulary = {"vocabulary": classes.embeddings.cpu().float().numpy()}
        if classes.learned is not None:
            rows = classes.learned.weights, classes.learned.biases
            vocabulary |= {key: row.cpu().numpy() for key, row in zip(LEARNED_INPUTS, rows, strict=True)}
        if self._takes_base:
            is_base = (
                torch.zeros(len(classes.class_ids), dtype=torch.bool) if classes.is_base is None else classes.is_base
            )
            vocabulary["is_base"] = is_base.cpu().numpy()
        return [{"instances": self._detect(inputs, vocabulary, classes)} for inputs in batched_inputs]

    def _detect(self, inputs: dict, vocabulary: dict[str, np.ndarray], classes: ClassEmbeddings) -> Instances:
        image = inputs["image"]
        outputs = self._session.run(None, {"image": image.numpy(), **vocabulary})
        boxes, scores, rows, *masks = map(torch.from_numpy, outputs)
        instances = Instances(tuple(image.shape[1:]))
        instances.pred_boxes, instances.scores, instances.pred_classes = Boxes(boxes), scores, rows
        if masks:
            instances.pred_masks = masks[0][:, None]  # (N, 1, S, S)
        found = classes_of_rows(instances, classes)
        if self._calibration is not None:
            found = self._calibration.of_instances(found, classes)
        return detector_postprocess(found, inputs["height"], inputs["width"])


def _with_a_row(classes: ClassEmbeddings) -> ClassEmbeddings:
    """Learned classes alone with a row that is no class, as the graph wants one."""
    if len(classes.class_ids):
        return classes
    row, negative = torch.eye(1, classes.width), torch.tensor([NEGATIVE])
    return replace(
        classes, embeddings=row, class_ids=negative, is_base=torch.tensor([False]), is_learned=None, texts=None
    )


def classes_of_rows(instances: Instances, classes: ClassEmbeddings) -> Instances:
    """Detections of rows -> detections of classes: without negatives, and of a class's rows the best on each object."""
    ids = classes.class_ids.cpu()
    if classes.learned is not None:
        ids = torch.cat([ids, classes.learned.class_ids.cpu()])  # their rows come behind
    ids = ids[instances.pred_classes]
    instances = instances[ids != NEGATIVE]
    instances.pred_classes = ids[ids != NEGATIVE]
    if classes.max_rows == 1:
        return instances
    boxes, scores, count = instances.pred_boxes.tensor, instances.scores, len(instances)
    return instances[nms_per_class(boxes, scores, instances.pred_classes, _SAME_OBJECT, count)]


def load_onnx_predictor(path: str | Path, *, device: str | None = None) -> OpenVocabPredictor:
    """A detector that ovdet export wrote, ready for a vocabulary.

    Args:
        path: the .onnx file.
        device: "cpu", "cuda", "cuda:1", ...; None takes a GPU where onnxruntime has one.

    Raises:
        InputError: onnxruntime is missing, the device is, or the file is damaged or something else.
    """
    _require(path)
    check_packages(("onnxruntime",))
    return _predictor(_open(path, _providers(device)), path)


def load_openvino_predictor(path: str | Path, *, half: bool | None = False) -> OpenVocabPredictor:
    """The same on this machine's CPU by OpenVINO, without learned classes.

    Args:
        path: the .onnx file.
        half: see `OpenvinoSession`.

    Raises:
        InputError: OpenVINO is missing, or the file is damaged or something else.
    """
    _require(path)
    return _predictor(OpenvinoSession(path, half=half), path)


def _require(path: str | Path) -> None:
    if not Path(path).is_file():
        raise InputError(f"expected an exported detector, {path} does not exist")


def _predictor(session: Any, path: str | Path) -> OpenVocabPredictor:
    about = read_description(session.get_modelmeta().custom_metadata_map.get(DESCRIPTION, "{}"), path)
    return OpenVocabPredictor(
        OnnxDetector(session, about.calibration),
        NameEmbedder(
            about.teacher,
            width=about.width,
            templates=about.templates if isinstance(about.templates, str) else tuple(about.templates),
            fingerprint=about.fingerprint,
        ),
        resize=T.AugmentationList([T.ResizeShortestEdge(**msgspec.structs.asdict(about.resize))]),
        training_classes=about.training_classes,
        learned_classes=about.learned_classes,
        fingerprint=about.detector,
    )


class Description(msgspec.Struct):
    """The description of a detector in an exported file."""

    format: Literal[FORMAT]
    teacher: str
    width: Width
    fingerprint: str
    resize: Resize
    templates: Templates
    training_classes: list[str] = []
    learned_classes: list[str] = []
    detector: str = ""
    calibration: ScoreCalibration | None = None


def read_description(text: str, path: str | Path) -> Description:
    """A file's description of its detector.

    Raises:
        InputError: it is none, or a value in it is of another type or beyond all measure.
    """
    return decoded(text, Description, "a detector by ovdet export", path)


def _open(path: str | Path, providers: list[Any]) -> Any:
    runtime = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors: that inputs have defaults, such as no learned classes, is meant
    try:
        return runtime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # a family of errors that onnxruntime does not document
        raise InputError(f"expected an ONNX model, {path} does not load: {first_line(error, 200)}") from error


def _providers(device: str | None) -> list[Any]:
    """onnxruntime's names for where to run, the first choice first."""
    here = importlib.import_module("onnxruntime").get_available_providers()
    kind, _, number = (device or "").partition(":")
    if kind == "cpu":
        return ["CPUExecutionProvider"]
    if kind not in ("", "cuda") or (kind == "cuda" and "CUDAExecutionProvider" not in here):
        raise InputError(f"expected a device that onnxruntime has here ({', '.join(here)}), got {device!r}")
    cuda = [("CUDAExecutionProvider", {"device_id": number or "0"})] if "CUDAExecutionProvider" in here else []
    return [*cuda, "CPUExecutionProvider"]

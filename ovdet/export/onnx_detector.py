"""Running an exported detector with onnxruntime, behind the predictor that runs trained ones.

Shape letters: H, W of the resized photo; K classes of the present vocabulary; D embedding width; N detections;
S side of a mask.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.data import transforms as T
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances
from torch import Tensor

from ovdet.errors import InputError, first_line
from ovdet.export.write import DESCRIPTION, FORMAT, check_packages
from ovdet.inference.predictor import OpenVocabPredictor
from ovdet.text.embedder import NameEmbedder


class OnnxDetector:
    """An .onnx file as what the predictor asks of a model."""

    input_format = "RGB"

    def __init__(self, session: Any) -> None:
        """
        Args:
            session: onnxruntime's InferenceSession of a file by tools/export.py.
        """
        self._session = session
        self._takes_base = any(value.name == "is_base" for value in session.get_inputs())
        self._vocabulary: dict[str, np.ndarray] = {}
        self.class_names: tuple[str, ...] = ()

    def set_vocabulary(
        self,
        names: Sequence[str],
        class_embeddings: Tensor,
        is_base: Sequence[bool] | None = None,
        num_asked: int | None = None,
    ) -> None:
        """Detect these classes from now on.

        Args:
            names: K class names.
            class_embeddings: (K, D), brought to unit norm.
            is_base: which of them were trained on, for a graph that asks for it; None: none of them.
            num_asked: not looked at: a graph finds all classes, and counts all of them as detections.
        """
        self._vocabulary = {"vocabulary": F.normalize(class_embeddings.cpu().float(), dim=1).numpy()}
        if self._takes_base:
            self._vocabulary["is_base"] = np.array([False] * len(names) if is_base is None else is_base, dtype=bool)
        self.class_names = tuple(names)

    def __call__(self, batched_inputs: list[dict]) -> list[dict]:
        """As detectron2's models: "image" (3, H, W) uint8, "height" and "width" of the photo -> "instances" in it."""
        return [{"instances": self._detect(inputs)} for inputs in batched_inputs]

    def _detect(self, inputs: dict) -> Instances:
        image = inputs["image"]
        outputs = self._session.run(None, {"image": image.numpy(), **self._vocabulary})
        boxes, scores, classes, *masks = map(torch.from_numpy, outputs)
        instances = Instances(tuple(image.shape[1:]))
        instances.pred_boxes, instances.scores, instances.pred_classes = Boxes(boxes), scores, classes
        if masks:
            instances.pred_masks = masks[0][:, None]  # (N, 1, S, S)
        return detector_postprocess(instances, inputs["height"], inputs["width"])


def load_onnx_predictor(path: str | Path, *, device: str | None = None) -> OpenVocabPredictor:
    """A detector that tools/export.py wrote, ready for a vocabulary.

    Args:
        path: the .onnx file.
        device: "cpu", "cuda", "cuda:1", ...; None takes a GPU where onnxruntime has one.

    Raises:
        InputError: onnxruntime is missing, the device is, or the file is damaged or something else.
    """
    if not Path(path).is_file():
        raise InputError(f"expected an exported detector, {path} does not exist")
    check_packages(("onnxruntime",))
    session = _open(path, _providers(device))
    try:
        description = json.loads(session.get_modelmeta().custom_metadata_map.get(DESCRIPTION, "{}"))
    except json.JSONDecodeError as error:
        raise InputError(f"expected a detector by tools/export.py, {path} has a broken description") from error
    if description.get("format") != FORMAT:
        raise InputError(f"expected a detector by tools/export.py, {path} does not say that it is one")
    resize = description["resize"]
    templates = description["templates"]
    return OpenVocabPredictor(
        OnnxDetector(session),
        NameEmbedder(
            description["teacher"],
            width=description["width"],
            templates=templates if isinstance(templates, str) else tuple(templates),
            fingerprint=description["fingerprint"],
        ),
        resize=T.AugmentationList([T.ResizeShortestEdge(**resize)]),
        training_classes=description["training_classes"],
    )


def _open(path: str | Path, providers: list[Any]) -> Any:
    runtime = importlib.import_module("onnxruntime")
    try:
        return runtime.InferenceSession(str(path), providers=providers)
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

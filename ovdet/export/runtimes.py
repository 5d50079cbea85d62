"""Runtimes for a detector's exported file, onnxruntime and OpenVINO; it is written once, into the user's cache."""

from __future__ import annotations

import hashlib
import importlib
import logging
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from omegaconf import DictConfig

from ovdet.cache import cache_folder
from ovdet.errors import InputError, first_line
from ovdet.export.write import DESCRIPTION, FORMATS, check_packages, export_detector
from ovdet.hub.load import find_weights
from ovdet.modeling.acceleration import is_bfloat16_faster
from ovdet.version import VERSION

logger = logging.getLogger(__name__)

TORCH, ONNX, OPENVINO = "torch", "onnx", "openvino"
_ADDRESS = re.compile(" at 0x[0-9a-f]+")


def exported_file(config: DictConfig, weights: str = "") -> Path:
    """The .onnx file of a detector in the user's cache, exported the first time it is asked for.

    Args:
        config: of the detector, see `load_config`; another config or other weights are another file.
        weights: as for `load_detector`.

    Raises:
        InputError: as of `export_detector`.
    """
    weights = find_weights(config, weights)
    total = hashlib.sha256(f"{VERSION} {_ADDRESS.sub('', str(config))}".encode())
    try:
        total.update(Path(weights).read_bytes())
    except OSError as error:
        raise InputError(f"expected a checkpoint, got {weights}, which cannot be read") from error
    path = cache_folder() / "runtimes" / f"{total.hexdigest()[:16]}.onnx"
    if not path.is_file():
        logger.warning("exporting the detector, once: it takes a minute or more; kept as %s", path)
        config = config.copy()
        config.train.device = "cpu"
        export_detector(config, weights, path, FORMATS["onnx"])
    return path


class OpenvinoSession:
    """An exported detector in OpenVINO, with those methods of onnxruntime's session that OnnxDetector calls."""

    def __init__(self, path: str | Path, *, half: bool | None = False) -> None:
        """
        Args:
            path: the .onnx file.
            half: bfloat16; None: where it is faster, see `is_bfloat16_faster`.

        Raises:
            InputError: OpenVINO is missing, or the file is damaged.
        """
        check_packages(("openvino",))
        openvino = importlib.import_module("openvino")
        precision = "bf16" if (is_bfloat16_faster() if half is None else half) else "f32"
        options = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        core = openvino.Core()
        try:
            model = core.read_model(str(path))
            self._compiled = core.compile_model(model, "CPU", options)
        except RuntimeError as error:
            raise InputError(f"expected an ONNX model, {path} does not load: {first_line(error, 200)}") from error
        self._idle: list[Any] = []  # requests, whose memory is taken once: 3 of 60 ms a photo
        place = ["framework", DESCRIPTION]
        self._description = model.get_rt_info(place).astype(str) if model.has_rt_info(place) else "{}"

    def get_inputs(self) -> list[Any]:
        """The inputs that must be given, each with a `name`."""
        return [SimpleNamespace(name=each.get_any_name()) for each in self._compiled.inputs]

    def get_overridable_initializers(self) -> list[Any]:
        """None: OpenVINO takes the inputs that may be left out, those of learned rows, for constants."""
        return []

    def get_modelmeta(self) -> Any:
        """The file's description of the detector."""
        return SimpleNamespace(custom_metadata_map={DESCRIPTION: self._description})

    def run(self, names: None, inputs: dict[str, Any]) -> list[Any]:
        """All outputs, in their order; any number of threads may ask at once."""
        try:
            request = self._idle.pop()
        except IndexError:  # all are at work
            request = self._compiled.create_infer_request()
        found = request.infer(inputs)  # copies, of which the request keeps nothing
        self._idle.append(request)
        return [found[output] for output in self._compiled.outputs]

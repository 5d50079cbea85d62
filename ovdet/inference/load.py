"""A predictor from what a command line says: a model, a config and its weights, or an exported file."""

from __future__ import annotations

from collections.abc import Sequence

from ovdet.errors import InputError
from ovdet.export.onnx_detector import load_onnx_predictor, load_openvino_predictor
from ovdet.export.runtimes import ONNX, OPENVINO, TORCH, exported_file
from ovdet.hub.find import DEFAULT_MODEL, choose_model, open_config
from ovdet.inference.predictor import OpenVocabPredictor


def load_predictor(
    model: str | None,
    config_file: str | None,
    weights: str | None,
    *,
    overrides: Sequence[str] = (),
    device: str | None = None,
    compile: bool = False,
    half: bool | None = False,
    int8: bool = False,
    runtime: str = TORCH,
) -> OpenVocabPredictor:
    """A trained or an exported detector, ready for names and images.

    Args:
        model: see `find_model`; None with neither config nor weights takes the package's own.
        config_file: of a trained detector, instead of a model.
        weights: the config's checkpoint, None for the last one of its run; or an .onnx file, which needs no config.
        overrides: `key=value` for the config.
        device: see `OpenVocabPredictor.from_config`.
        compile: see `speed_up`; not for an .onnx file.
        half: see `speed_up`; with OpenVINO see `OpenvinoSession`; not with onnxruntime.
        int8: see `speed_up`; not for an .onnx file.
        runtime: what runs the network: "torch", "onnx" (onnxruntime) or "openvino", by a file exported the first
            time. An .onnx file is run by onnxruntime where torch is asked for.

    Raises:
        InputError: they are not there or do not fit each other.
    """
    if weights and weights.endswith(".pt2"):
        raise InputError(f"expected a checkpoint or an .onnx file, got {weights}: reading a .pt2 can run code")
    exported = weights if weights and weights.endswith(".onnx") else None
    if exported and (model or config_file or overrides):
        raise InputError(
            "expected no model, config, teacher or overrides with an .onnx file, which holds what it needs"
        )
    if (compile or int8) and (exported or runtime != TORCH):
        raise InputError(f"expected --{'compile' if compile else 'int8'} with --runtime torch and no .onnx file")
    if half and runtime != OPENVINO and (exported or runtime == ONNX):
        raise InputError("expected --half with --runtime torch or openvino, onnxruntime computes in float32")
    if runtime == OPENVINO and device not in (None, "cpu"):
        raise InputError(f"expected the CPU with --runtime openvino, got {device!r}")
    if weights and not config_file and not exported:
        raise InputError("expected --config-file with --weights: what detector they are of")
    if not exported:
        files = choose_model(model, config_file, weights, default=DEFAULT_MODEL)
        if runtime == TORCH:
            return OpenVocabPredictor.from_config(
                *files, overrides=overrides, device=device, compile=compile, half=half, int8=int8
            )
        exported = exported_file(open_config(files.config_file, overrides), files.weights)
    if runtime == OPENVINO:
        return load_openvino_predictor(exported, half=half)
    return load_onnx_predictor(exported, device=device)

"""A predictor from what a command line says: a model, a config and its weights, or an exported file."""

from __future__ import annotations

from collections.abc import Sequence

from ovdet.errors import InputError
from ovdet.export.onnx_detector import load_onnx_predictor
from ovdet.hub.find import DEFAULT_MODEL, choose_model
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
) -> OpenVocabPredictor:
    """A trained or an exported detector, ready for names and images.

    Args:
        model: see `find_model`; None with neither config nor weights takes the package's own.
        config_file: of a trained detector, instead of a model.
        weights: the config's checkpoint, None for the last one of its run; or an .onnx file, which needs no config.
        overrides: `key=value` for the config.
        device: see `OpenVocabPredictor.from_config`.
        compile: see `speed_up`; not for an .onnx file.
        half: see `speed_up`; not for an .onnx file.

    Raises:
        InputError: they are not there or do not fit each other.
    """
    if weights and weights.endswith(".pt2"):
        raise InputError(f"expected a checkpoint or an .onnx file, got {weights}: reading a .pt2 can run code")
    if weights and weights.endswith(".onnx"):
        if model or config_file or overrides or compile or half:
            raise InputError(
                "expected no model, config, teacher, overrides, --compile or --half with an .onnx file, "
                "which holds what it needs"
            )
        return load_onnx_predictor(weights, device=device)
    if weights and not config_file:
        raise InputError("expected --config-file with --weights: what detector they are of")
    files = choose_model(model or (None if config_file else DEFAULT_MODEL), config_file, weights)
    return OpenVocabPredictor.from_config(*files, overrides=overrides, device=device, compile=compile, half=half)

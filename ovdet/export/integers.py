"""An exported detector with 8-bit weights where most of them are: in its linear layers."""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path


def quantize_linear_layers(content: bytes) -> bytes:
    """Weights of the linear layers as int8, with a scale for each output; what comes in is quantised as it comes.

    Args:
        content: of an .onnx file.

    Returns:
        That of another, with the same inputs and outputs. Products with the vocabulary are in float32 as before.
    """
    onnx = importlib.import_module("onnx")
    quantization = importlib.import_module("onnxruntime.quantization")
    model = onnx.load_from_string(content)
    del model.graph.value_info[:]  # shapes of before: the quantiser turns matrices over, and would find them wrong
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "int8.onnx"
        quantization.quantize_dynamic(
            model,
            file,
            op_types_to_quantize=["Gemm", "MatMul"],  # it makes the one into the other first
            nodes_to_exclude=[node.name for node in model.graph.node if node.op_type == "MatMul"],
            per_channel=True,
        )
        return file.read_bytes()

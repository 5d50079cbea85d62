"""An exported detector with 8-bit weights where most of them are: in its linear layers."""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path
from typing import Any

_GEMM = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}  # its attributes, where it does not say


def quantize_linear_layers(content: bytes) -> bytes:
    """Weights of the linear layers as int8, with a scale for each output; what comes in is quantized as it comes.

    Args:
        content: of an .onnx file.

    Returns:
        That of another, with the same inputs and outputs. Products with the vocabulary are in float32 as before.
    """
    onnx = importlib.import_module("onnx")
    quantization = importlib.import_module("onnxruntime.quantization")
    model = onnx.load_from_string(content)
    products = [node.name for node in model.graph.node if node.op_type == "MatMul"]
    _linear_layers_as_products(model)
    del model.graph.value_info[:]  # shapes of before
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "int8.onnx"
        quantization.quantize_dynamic(
            model,
            file,
            op_types_to_quantize=["MatMul"],
            nodes_to_exclude=products,
            per_channel=True,
        )
        return file.read_bytes()


def _linear_layers_as_products(model: Any) -> None:
    """Each Gemm of an ONNX model as MatMul and, where it has a bias, Add, in place.

    The quantizer does so too, but turns a matrix over as often as it is used: a head that sees regions twice has one
    for two layers.
    """
    onnx = importlib.import_module("onnx")
    graph = model.graph
    matrices = {tensor.name: tensor for tensor in graph.initializer}
    turned: set[str] = set()
    nodes = []
    for node in graph.node:
        attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
        if node.op_type != "Gemm" or {**_GEMM, **attributes} != {**_GEMM, "transB": 1}:
            nodes.append(node)
            continue
        features, weight, *bias = node.input
        if weight not in turned:
            matrix = onnx.numpy_helper.to_array(matrices[weight]).T
            matrices[weight].CopyFrom(onnx.numpy_helper.from_array(matrix.copy(), weight))
            turned.add(weight)
        product = f"{node.output[0]}_product" if bias else node.output[0]
        nodes.append(onnx.helper.make_node("MatMul", [features, weight], [product], name=f"{node.name}_product"))
        if bias:
            nodes.append(onnx.helper.make_node("Add", [product, *bias], list(node.output), name=node.name))
    del graph.node[:]
    graph.node.extend(nodes)

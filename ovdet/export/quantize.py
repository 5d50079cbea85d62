"""An exported detector in 8 bits: its linear layers' weights for a small file, or its whole network for OpenVINO."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ovdet.quiet import quiet_libraries

# What is computed in 8 bits, and what only moves values, through which their ranges are carried. All else, such as the
# arithmetic of boxes and scores, is in floats.
_COMPUTED = ("Conv", "Gemm")
_MOVED = ("Gather", "Reshape", "MaxPool", "Relu", "Clip")
# The expert's first stage, as with it in 8 bits AP50 of ovdet-lite falls (docs/lab/speed.md); and the mask head, which
# sees detections alone: there may be none among the samples.
_IN_FLOATS = ("backbone.beside.stem.", "backbone.beside.stages.0.", "backbone.beside.reduce.0.", "roi_heads.mask_head.")
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


def quantize_network(content: bytes, samples: Sequence[Mapping[str, np.ndarray]]) -> bytes:
    """Convolutions and linear layers in 8 bits, weights and what comes in, by NNCF's quantization after training.

    Args:
        content: of an .onnx file.
        samples: inputs of it by name, whose values tell which ranges there are. A hundred photos do.

    Returns:
        That of another, with the same inputs and outputs, which OpenVINO runs in 8 bits.
    """
    onnx = importlib.import_module("onnx")
    model = onnx.load_from_string(content)
    with quiet_libraries():  # which say of thousands of nodes that they stay as they are
        nncf = importlib.import_module("nncf")
        quantized = nncf.quantize(
            model,
            nncf.Dataset(samples),
            preset=nncf.QuantizationPreset.PERFORMANCE,  # zero is zero: OpenVINO's linear layers want it
            subset_size=len(samples),
            ignored_scope=nncf.IgnoredScope(names=_nodes_in_floats(model), validate=False),
        )
    return quantized.SerializeToString()


def _nodes_in_floats(model: Any) -> list[str]:
    """Names of nodes that are not for 8 bits.

    Those of a convolution that reads the photo, which has few channels and is as fast; and of one that reads joined
    maps, which OpenVINO 2026.4.1 computes wrongly in 8 bits.
    """
    nodes = model.graph.node
    made_by = {output: node.op_type for node in nodes for output in node.output}
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}

    def in_floats(node: Any) -> bool:
        if node.op_type not in _COMPUTED:
            return node.op_type not in _MOVED
        read, weight = node.input[:2]
        if weight.startswith(_IN_FLOATS) or weight not in shapes:
            return True
        return node.op_type == "Conv" and (shapes[weight][1] == 3 or made_by.get(read) == "Concat")

    return [node.name for node in nodes if in_floats(node)]

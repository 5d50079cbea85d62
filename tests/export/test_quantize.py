"""Which layers of an exported detector go to 8 bits."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from ovdet.export.quantize import _nodes_in_floats


@pytest.fixture
def model():
    """A photo through convolutions, channels joined, two levels' regions joined, a linear layer, an addition."""
    weights = {"stem": (8, 3, 1, 1), "body": (8, 8, 1, 1), "after": (4, 16, 1, 1), "fc": (5, 4)}
    weights["backbone.beside.stages.0.x.weight"] = (8, 8, 1, 1)
    node = helper.make_node
    nodes = [
        node("Conv", ["photo", "stem"], ["a"], name="stem"),
        node("Conv", ["a", "body"], ["b"], name="body"),
        node("Conv", ["b", "backbone.beside.stages.0.x.weight"], ["c"], name="the expert's first"),
        node("Concat", ["b", "c"], ["joined"], name="channels", axis=1),
        node("Conv", ["joined", "after"], ["d"], name="after joined channels"),
        node("Concat", ["d", "d"], ["rows"], name="rows", axis=0),
        node("Reshape", ["rows", "shape"], ["flat"], name="flat"),
        node("Gemm", ["flat", "fc"], ["e"], name="linear", transB=1),
        node("Conv", ["a", "b"], ["g"], name="weights that come"),
        node("Add", ["e", "e"], ["f"], name="sum"),
        node("MatMul", ["f", "names"], ["scores"], name="scores"),
    ]
    tensors = [numpy_helper.from_array(np.zeros(shape, np.float32), name) for name, shape in weights.items()]
    photo, names = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("photo", "names"))
    return helper.make_model(helper.make_graph(nodes, "detector", [photo, names], [], tensors))


def test_convolutions_and_linear_layers_are_quantized_but_for_those_that_suffer(model):
    in_floats = _nodes_in_floats(model)
    assert set(in_floats) == {
        "stem",
        "the expert's first",
        "channels",
        "rows",
        "after joined channels",
        "weights that come",
        "sum",
        "scores",
    }
    # and so these are in 8 bits, or carry what is
    assert {node.name for node in model.graph.node} - set(in_floats) == {"body", "flat", "linear"}

"""Paddings that become part of a convolution, and those that must not."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ssd.deploy.onnx_pads import fold_pads

AROUND = [0, 0, 1, 0, 0, 0, 2, 3]  # rows before and behind: 1, 2; columns: 0, 3


def graph(amounts=AROUND, value=None, mode="constant", op="Conv", conv=None, shown=False):
    """A padding in front of a depthwise convolution, or of something else."""
    rng = np.random.default_rng(0)
    weights = {"kernel": rng.normal(size=(2, 1, 3, 3)).astype("float32"), "amounts": np.array(amounts, np.int64)}
    taken = ["Input", "amounts"]
    if value is not None:
        weights["value"] = np.float32(value)
        taken.append("value")
    nodes = [helper.make_node("Pad", taken, ["padded"], mode=mode)]
    if op == "Conv":
        options = {"group": 2, "kernel_shape": [3, 3], "strides": [2, 2], **(conv or {})}
        nodes.append(helper.make_node("Conv", ["padded", "kernel"], ["result"], **options))
    else:
        nodes.append(helper.make_node(op, ["padded"], ["result"], kernel_shape=[3, 3]))
    outputs = ["result", *(["padded"] if shown else [])]
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 4) for name in ("Input", *outputs)]
    made = helper.make_graph(nodes, "g", values[:1], values[1:], tensors)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def folded(proto):
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    return fold_pads(copy)


@pytest.mark.parametrize(
    ("options", "pads"),
    [
        ({}, [1, 0, 2, 3]),
        ({"value": 0.0}, [1, 0, 2, 3]),
        ({"conv": {"auto_pad": "VALID"}}, [1, 0, 2, 3]),
        ({"conv": {"pads": [1, 1, 1, 1]}}, [2, 1, 3, 4]),
    ],
)
def test_zeros_become_the_convolutions_own(options, pads, small):
    proto = graph(**options)
    result = folded(proto)
    onnx.checker.check_model(result, full_check=True)
    (node,) = result.graph.node
    attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    assert attributes["pads"] == pads and "auto_pad" not in attributes
    images = np.random.default_rng(1).normal(size=(2, 2, 6, 7)).astype("float32")
    np.testing.assert_allclose(small.run(result, images)["result"], small.run(proto, images)["result"], atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"value": 1.0},
        {"mode": "reflect"},
        {"op": "MaxPool"},  # whose own padding is minus infinity
        {"amounts": [0, 1, 1, 1, 0, 0, 1, 1], "conv": {"group": 3}},
        {"amounts": [0, 0, -1, 0, 0, 0, 0, 0]},
        {"conv": {"auto_pad": "SAME_UPPER"}},
        {"shown": True},
    ],
)
def test_other_paddings_stay(options):
    proto = graph(**options)
    assert folded(proto) == proto

"""Which layer rounding hurts most: one whose range is far too small, or whose kernel has one huge number."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from ssd.quantization.calibration import calibrate
from ssd.quantization.qdq import insert_qdq
from ssd.quantization.rewrite import Quantization
from ssd.quantization.sensitivity import sensitivities

LAYERS = ("conv1", "conv2", "conv3")
ROUNDED = (*LAYERS, "sum")


def graph():
    """Three convolutions with ReLUs between them, the last beside a sum of its own input; two outputs."""
    rng = np.random.default_rng(0)
    nodes, weights, taken = [], [], "Input"
    for name in LAYERS:
        kernel = rng.uniform(-1, 1, (4, 4, 1, 1)).astype("float32")
        weights.append(numpy_helper.from_array(kernel, f"{name}/kernel"))
        nodes.append(helper.make_node("Conv", [taken, f"{name}/kernel"], [name], name=f"{name}/Conv"))
        taken = f"{name}_relu"
        nodes.append(helper.make_node("Relu", [name], [taken], name=f"{taken}/Relu"))
    nodes.append(helper.make_node("Add", ["conv3_relu", "conv2_relu"], ["sum"], name="sum/Add"))
    nodes.append(helper.make_node("Identity", ["sum"], ["boxes"], name="decode/Identity"))
    nodes.append(helper.make_node("Sigmoid", ["sum"], ["scores"], name="decode/Sigmoid"))
    shapes = {"Input": ("batch", 4, 6, 6), "boxes": ("batch", 4, 6, 6), "scores": ("batch", 4, 6, 6)}
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    made = helper.make_graph(nodes, "g", values[:1], values[1:], weights)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).normal(size=(4, 4, 6, 6)).astype("float32")


@pytest.fixture(scope="module")
def table(images):
    return calibrate(graph(), [images], "max")


@pytest.mark.parametrize(("tensor", "layer"), [("Input", "conv1"), ("conv1_relu", "conv2"), ("conv2_relu", "conv3")])
def test_the_layer_with_far_too_small_a_range_comes_first(tensor, layer, images, table):
    narrow = Quantization({**table.amax, tensor: table.amax[tensor] / 20}, table.convolutions)
    found = sensitivities(graph(), narrow, images)
    taken = {layer, "sum"} if tensor == "conv2_relu" else {layer}  # by whom
    assert {each.layer for each in found[: len(taken)]} == taken
    assert found[len(taken) - 1].error > 10 * found[len(taken)].error > 0
    assert sorted(each.layer for each in found) == sorted(ROUNDED)
    assert [each.error for each in found] == sorted((each.error for each in found), reverse=True)
    # Each is rounded alone: the others' errors are those that they have with good ranges.
    good = {each.layer: each.error for each in sensitivities(graph(), table, images)}
    assert {each.layer: each.error for each in found[len(taken) :]} == {
        name: good[name] for name in good if name not in taken
    }


def test_a_layer_with_one_huge_number_in_its_kernel_comes_first(images):
    proto = graph()
    (tensor,) = (tensor for tensor in proto.graph.initializer if tensor.name == "conv2/kernel")
    kernel = numpy_helper.to_array(tensor).copy()
    kernel[:, 1] = 0
    kernel[:, 1, 0, 0] = 300.0  # takes a channel that is made to be zero
    tensor.CopyFrom(numpy_helper.from_array(kernel, tensor.name))
    (tensor,) = (tensor for tensor in proto.graph.initializer if tensor.name == "conv1/kernel")
    kernel = numpy_helper.to_array(tensor).copy()
    kernel[1] = 0
    tensor.CopyFrom(numpy_helper.from_array(kernel, tensor.name))
    found = sensitivities(proto, calibrate(proto, [images], "max"), images)
    assert found[0].layer == "conv2" and found[0].error > 5 * found[1].error


def test_the_error_is_the_mean_absolute_change_of_the_outputs(images, table, small):
    (found,) = (each for each in sensitivities(graph(), table, images) if each.layer == "conv2")
    alone = insert_qdq(graph(), table, ["conv1", "conv3", "sum"])
    exact, rounded = small.run(graph(), images), small.run(alone, images)
    changes = [np.abs(exact[name].astype("float64") - rounded[name]).mean() for name in ("boxes", "scores")]
    assert found.error > 0 and found.error == pytest.approx(np.mean(changes), rel=1e-5)


def test_only_layers_that_are_rounded_are_tried(images, table):
    some = Quantization(table.amax, ("conv3", "conv1"))
    assert {each.layer for each in sensitivities(graph(), some, images)} == {"conv1", "conv3", "sum"}
    kept = sensitivities(graph(), some, images, ["conv[12]", "sum"])
    assert [each.layer for each in kept] == ["conv3"]
    assert sensitivities(graph(), table, images, ["*"]) == []

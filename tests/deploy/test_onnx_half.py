"""The float16 form: halved inside, float32 outside, close to the float graph."""

from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

pytest.importorskip("tensorflow", reason="networks are converted through TensorFlow")

from ssd.deploy.onnx_half import to_half
from ssd.deploy.onnx_nms import add_standard
from ssd.errors import InputError
from ssd.models.fold import fold_batch_norm
from ssd.spec.config import Nms

OUTSIDE = ("decode", "nms", "preprocess")
NMS = Nms(confidence_threshold=0.1, iou_threshold=0.5, top_k=10, score_bits=0)


@pytest.fixture(scope="module")
def tiny(small):
    return fold_batch_norm(small.detector())[0]


@pytest.fixture(scope="module")
def graph(small, tiny):
    return small.exported(tiny)


@pytest.fixture(scope="module")
def half(graph):
    return to_half(graph)


def kinds(proto):
    """Name -> element type of every tensor, inferred from the operators."""
    found = onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*found.input, *found.value_info, *found.output)}
    return types | {tensor.name: tensor.data_type for tensor in found.initializer}


def assert_halved_inside_and_whole_outside(proto):
    types, floats = kinds(proto), (TensorProto.FLOAT, TensorProto.FLOAT16)
    for node in proto.graph.node:
        outside = node.name.partition("/")[0] in OUTSIDE
        if node.op_type == "Cast" and "/Cast_" in node.name:
            continue
        for name in (*node.input, *node.output):
            if types[name] in floats:
                assert types[name] == (TensorProto.FLOAT if outside else TensorProto.FLOAT16), (node.name, name)
    for value in (*proto.graph.input, *proto.graph.output):
        assert value.type.tensor_type.elem_type != TensorProto.FLOAT16


def casts(proto):
    return [
        (node.input[0], node.output[0], helper.get_attribute_value(node.attribute[0]))
        for node in proto.graph.node
        if node.op_type == "Cast"
    ]


def test_the_network_is_halved_and_decoding_input_and_outputs_are_not(graph, half):
    onnx.checker.check_model(half, full_check=True)
    assert_halved_inside_and_whole_outside(half)
    assert casts(half) == [
        ("Input", "Input/half", TensorProto.FLOAT16),
        ("mbox_loc", "mbox_loc/float", TensorProto.FLOAT),
        ("mbox_conf", "mbox_conf/float", TensorProto.FLOAT),
    ]
    assert {name: kinds(half)[name] for name in ("conv1", "join", "mbox_loc", "ssd_conf_1")} == dict.fromkeys(
        ("conv1", "join", "mbox_loc", "ssd_conf_1"), TensorProto.FLOAT16
    )
    for before, after in zip(
        (*graph.graph.input, *graph.graph.output), (*half.graph.input, *half.graph.output), strict=True
    ):
        assert before == after


def test_the_names_of_tensors_stay(graph, half):
    made = {name for node in half.graph.node for name in node.output}
    assert {name for node in graph.graph.node for name in node.output} == {
        name for name in made if not name.endswith(("/half", "/float"))
    }


def test_the_given_graph_stays(small, tiny, graph):
    assert graph.SerializeToString(deterministic=True) == small.exported(tiny).SerializeToString(deterministic=True)


def test_boxes_and_scores_are_close_to_those_of_float32(small, tiny, graph, half):
    images = small.pictures(tiny, 4).transpose(0, 3, 1, 2).copy()
    found, expected = small.run(half, images), small.run(graph, images)
    for name, value in expected.items():
        assert found[name].dtype == np.float32
        error = np.abs(found[name] - value)
        assert error.max() < 0.02 and error.mean() < 0.002
        assert error.max() > 1e-5  # the rounding is there


def test_weights_take_half_the_bytes(graph, half):
    def sizes(proto):
        found = {"network": 0, "outside": 0}
        for tensor in proto.graph.initializer:
            whose = "outside" if tensor.name.startswith(OUTSIDE) else "network"
            if tensor.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16):
                found[whose] += numpy_helper.to_array(tensor).nbytes
        return found

    before, after = sizes(graph), sizes(half)
    assert after["network"] * 2 == before["network"] > 10000
    assert after["outside"] == before["outside"] > 0


def test_weights_are_the_nearest_halves(graph, half):
    before, after = ({t.name: numpy_helper.to_array(t) for t in proto.graph.initializer} for proto in (graph, half))
    assert "conv2/kernel" not in after
    np.testing.assert_array_equal(after["conv2/kernel_half"], before["conv2/kernel"].astype(np.float16))
    np.testing.assert_array_equal(after["loc_reshape_1/constant"], before["loc_reshape_1/constant"])  # a shape


@pytest.mark.parametrize("order", ["before NMS", "behind NMS"])
def test_nms_stays_in_float32_whenever_it_comes(order, graph, half):
    def copy(proto):
        result = onnx.ModelProto()
        result.CopyFrom(proto)
        return result

    proto = add_standard(copy(half), NMS) if order == "before NMS" else to_half(add_standard(copy(graph), NMS))
    onnx.checker.check_model(proto, full_check=True)
    assert_halved_inside_and_whole_outside(proto)
    assert {node.name for node in proto.graph.node if node.op_type == "NonMaxSuppression"}


def test_preprocessing_stays_in_float32_and_pixels_stay_bytes(small):
    model = small.detector()
    whole = small.exported(model, pixels=SimpleNamespace(channels=3, mean=(103.9, 116.8, 123.7)))
    proto = to_half(whole)
    onnx.checker.check_model(proto, full_check=True)
    assert_halved_inside_and_whole_outside(proto)
    assert kinds(proto)["Input"] == TensorProto.UINT8
    pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3)).astype(np.uint8)
    for name, value in small.run(whole, pixels).items():
        np.testing.assert_allclose(small.run(proto, pixels)[name], value, atol=0.05)


def layer(kernel, name="boxes", **scope):
    """One convolution whose output the network itself returns, or decoding behind it."""
    nodes = [helper.make_node("Conv", ["Input", "conv1/kernel"], ["conv1"], name="conv1/Conv")]
    nodes.append(helper.make_node("Relu", ["conv1"], [name], name=f"{scope.get('last', 'decode')}/Relu"))
    source = helper.make_tensor_value_info("Input", TensorProto.FLOAT, (1, 1, 2, 2))
    result = helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 1, 2, 2))
    weights = numpy_helper.from_array(np.full((1, 1, 1, 1), kernel, np.float32), "conv1/kernel")
    graph = helper.make_graph(nodes, "g", [source], [result], [weights])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("value", [65520.0, -1e6, np.inf, np.nan])
def test_weights_that_are_too_large_or_no_numbers_are_refused_by_name(value):
    with pytest.raises(InputError, match=r"conv1/kernel: the value .* is too large for float16"):
        to_half(layer(value))


@pytest.mark.parametrize("value", [65504.0, 1e-9, 0.0])
def test_the_largest_half_and_numbers_below_the_smallest_are_taken(value, small):
    proto = to_half(layer(value))
    found = small.run(proto, np.ones((1, 1, 2, 2), np.float32))["boxes"]
    np.testing.assert_array_equal(found, np.full((1, 1, 2, 2), np.float16(value), np.float32))


def test_an_output_that_the_network_itself_makes_is_refused():
    with pytest.raises(InputError, match="output boxes of the graph is made by the network itself"):
        to_half(layer(1.0, last="relu1"))

"""Exported graphs: ONNX Runtime gives what Keras and the paper's formulas give, under the names of the layers."""

from collections import Counter

import keras
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

pytest.importorskip("tensorflow", reason="networks are converted through TensorFlow")

from ssd.deploy.onnx_export import to_onnx
from ssd.deploy.onnx_names import drop_idle_reshapes, name_tensors
from ssd.models.detector import build_detector
from ssd.models.fold import fold_batch_norm
from ssd.spec.config import Augmentation

L = keras.layers


@pytest.fixture(scope="module")
def tiny(small):
    return small.detector()


@pytest.fixture(scope="module")
def folded(tiny):
    return fold_batch_norm(tiny)[0]


@pytest.fixture(scope="module")
def graph(small, folded):
    return small.exported(folded)


@pytest.fixture(scope="module")
def resnet(small, network):
    keras.utils.set_random_seed(0)
    return small.trained(build_detector(network(), (128, 128, 3), 3))


@pytest.fixture(scope="module")
def resnet_graph(small, resnet):
    return small.exported(fold_batch_norm(resnet)[0])


def channels_first(images):
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def dimensions(value):
    return tuple(dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim)


def tensors(proto):
    """The outputs of all nodes."""
    return [name for node in proto.graph.node for name in node.output]


def shapes(proto):
    inferred = onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True).graph
    return {value.name: dimensions(value) for value in (*inferred.input, *inferred.value_info, *inferred.output)}


def structure(proto):
    return [(node.op_type, node.name, list(node.input), list(node.output)) for node in proto.graph.node]


def assert_same_detections(small, proto, model, images, inputs=None):
    """Boxes and scores of the graph against float64 formulas on what Keras gives."""
    outputs = {name: np.asarray(value) for name, value in model(images, training=False).items()}
    expected = small.decoded(outputs["class_logits"], outputs["offsets"], small.anchors(model))
    found = small.run(proto, channels_first(images) if inputs is None else inputs)
    assert list(found) == ["boxes", "scores"]
    for name, value in expected.items():
        assert found[name].dtype == np.float32 and value.std() > 0.05
        np.testing.assert_allclose(found[name], value, atol=1e-4)


# Numbers


@pytest.mark.parametrize("opset", [13, 17, 18])
def test_a_small_detector_gives_the_boxes_and_scores_of_keras(opset, small, tiny, folded):
    proto = small.exported(folded, opset=opset)
    assert {entry.version for entry in proto.opset_import if entry.domain == ""} == {opset}
    onnx.checker.check_model(proto, full_check=True)
    for batch in (1, 5):
        assert_same_detections(small, proto, tiny, small.pictures(tiny, batch))


@pytest.mark.parametrize("batch", [1, 5])
def test_a_resnet_gives_the_boxes_and_scores_of_keras(batch, small, resnet, resnet_graph):
    assert_same_detections(small, resnet_graph, resnet, small.pictures(resnet, batch))


def test_a_network_whose_norms_were_not_folded_is_the_same_function(small, tiny):
    proto = small.exported(tiny)
    onnx.checker.check_model(proto, full_check=True)
    assert_same_detections(small, proto, tiny, small.pictures(tiny, 3))


def test_swish_and_channel_weights_of_one_cell_maps(small):
    images = keras.Input((8, 8, 3), name="Input")
    x = L.Conv2D(8, 3, strides=4, padding="valid", name="stem")(images)
    x = L.Activation("silu", name="swish")(x)
    y = L.Reshape((1, 1, 8), name="se_reshape")(L.GlobalAveragePooling2D(name="se_pool")(x))
    y = L.Conv2D(8, 1, activation="sigmoid", name="se_expand")(L.Conv2D(2, 1, activation="silu", name="se_reduce")(y))
    x = L.Multiply(name="excite")([x, y])
    last = L.Conv2D(8, 2, name="last")(x)
    heads = {}
    for kind, values in (("conf", 4), ("loc", 4)):
        maps = [L.Conv2D(2 * values, 1, name=f"ssd_{kind}_{index}")(each) for index, each in enumerate((x, last))]
        maps = [L.Reshape((-1, values), name=f"{kind}_reshape_{index}")(each) for index, each in enumerate(maps)]
        heads[kind] = L.Concatenate(axis=1, name=f"mbox_{kind}")(maps)
    model = keras.Model(images, {"class_logits": heads["conf"], "offsets": heads["loc"]})
    for layer in model.layers:
        if layer.weights:
            layer.set_weights([weight * 0.02 if layer.name == "stem" else weight for weight in layer.get_weights()])
    proto = small.exported(model)
    onnx.checker.check_model(proto, full_check=True)
    assert_same_detections(small, proto, model, small.pictures(model, 3))
    made = {node.output[0]: node for node in proto.graph.node}
    assert {layer.name for layer in model.layers if isinstance(layer, L.Conv2D | L.Multiply)} <= set(made)
    # What is reshaped to one cell has one already; so have the maps of the second heads, whatever their layout.
    assert made["se_reduce/conv"].input[0] == "se_pool"
    assert Counter(
        node.op_type for node in proto.graph.node if node.op_type in ("Reshape", "Squeeze", "Transpose")
    ) == {
        "Reshape": 4,
        "Transpose": 2,
    }


def test_paddings_in_front_of_depthwise_convolutions_are_part_of_them(small):
    images = keras.Input((8, 8, 3), name="Input")
    x = L.ZeroPadding2D(((1, 1), (0, 2)), name="pad")(images)
    x = L.DepthwiseConv2D(3, strides=2, name="dw")(x)
    heads = {}
    for kind in ("conf", "loc"):
        head = L.Conv2D(4, 1, kernel_initializer=keras.initializers.RandomNormal(0, 0.02), name=f"ssd_{kind}")(x)
        heads[kind] = L.Reshape((-1, 4), name=f"mbox_{kind}")(head)
    model = keras.Model(images, {"class_logits": heads["conf"], "offsets": heads["loc"]})
    proto = small.exported(model)
    assert_same_detections(small, proto, model, small.pictures(model, 2))
    (node,) = (node for node in proto.graph.node if node.name == "dw/Conv")
    assert node.input[0] == "Input"
    assert {each.name: list(each.ints) for each in node.attribute}["pads"] == [1, 0, 1, 2]


def test_a_static_batch_stands_in_the_graph_and_no_other_is_taken(small, tiny, folded, graph):
    proto = small.exported(folded, batch=3)
    onnx.checker.check_model(proto, full_check=True)
    boxes = len(small.anchors(tiny))
    assert [dimensions(value) for value in (*proto.graph.input, *proto.graph.output)] == [
        (3, 3, 16, 16),
        (3, boxes, 4),
        (3, boxes, 3),
    ]
    assert all(shape[0] == 3 for shape in shapes(proto).values())
    assert_same_detections(small, proto, tiny, small.pictures(tiny, 3))
    with pytest.raises(Exception, match="invalid dimensions"):
        small.run(proto, channels_first(small.pictures(tiny, 2)))
    assert tensors(proto) == tensors(graph)


def test_a_free_batch_has_a_name_in_input_and_outputs(graph):
    assert [(value.name, dimensions(value)) for value in (*graph.graph.input, *graph.graph.output)] == [
        ("Input", ("batch", 3, 16, 16)),
        ("boxes", ("batch", 160, 4)),
        ("scores", ("batch", 160, 3)),
    ]


MEANS = {3: (103.9, 116.8, 123.7), 1: (117.3,)}


def augmentation(channels):
    still = {"crop_scale": (1.0, 1.0), "crop_aspect_ratio": (1.0, 1.0), "zoom_out": (1.0, 1.0), "flip": 0.0}
    jitter = dict.fromkeys(("brightness", "contrast", "saturation", "hue"), 0.0)
    return Augmentation(width=16, height=16, channels=channels, mean=MEANS[channels], **still, **jitter)


@pytest.mark.parametrize(("channels", "batch"), [(3, None), (1, 2)], ids=["colour", "gray, static batch"])
def test_preprocessing_in_the_graph_is_bgr_or_gray_minus_mean(channels, batch, small):
    model = small.detector(channels)
    proto = small.exported(model, pixels=augmentation(channels), batch=batch)
    onnx.checker.check_model(proto, full_check=True)
    (source,) = proto.graph.input
    assert (source.name, source.type.tensor_type.elem_type) == ("Input", TensorProto.UINT8)
    assert dimensions(source) == (batch or "batch", 16, 16, 3)
    rgb = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3)).astype(np.uint8)
    rgb[0, 0, :3] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    wide = rgb.astype(np.float64)
    wide = wide[..., ::-1] if channels == 3 else wide @ np.array([[0.299], [0.587], [0.114]])
    images = (wide - np.array(MEANS[channels])).astype(np.float32)
    assert_same_detections(small, proto, model, images, inputs=rgb)
    without = small.exported(model, batch=batch)
    for one, other in zip(
        small.run(proto, rgb).values(), small.run(without, channels_first(images)).values(), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-5)
    # What the first layer takes belongs to preprocessing, whatever its layout.
    (first,) = (node for node in proto.graph.node if node.name == "conv1/Conv")
    assert first.input[0].startswith("preprocess/")
    layers = [name for name in tensors(without) if "/" not in name]
    assert layers == [name for name in tensors(proto) if "/" not in name]


# Names


def test_what_a_convolution_hands_on_has_its_layers_name(small, graph):
    made = {node.output[0]: node.op_type for node in graph.graph.node}
    for name in small.CONVOLUTIONS:
        # An activation inside the layer is part of it.
        assert made[name] == {"conv2": "Relu", "up": "ConvTranspose"}.get(name, "Conv")
    assert made["conv2/conv"] == "Conv"
    assert made["relu1"] == "Relu" and made["add"] == "Add" and made["pool"] == "MaxPool" and made["join"] == "Concat"
    assert made["mbox_conf"] == made["mbox_loc"] == "Concat"


def test_every_layer_of_a_resnet_that_computes_names_a_tensor(resnet, resnet_graph):
    made = set(tensors(resnet_graph))
    folded = (L.InputLayer, L.ZeroPadding2D, L.BatchNormalization)  # paddings go into the convolutions
    expected = {layer.name for layer in resnet.layers if not isinstance(layer, folded)}
    assert expected == {name for name in made if "/" not in name} - {"boxes", "scores"}


@pytest.mark.parametrize("which", ["graph", "resnet_graph"])
def test_no_two_tensors_or_nodes_share_a_name_and_all_inputs_are_there(which, request):
    proto = request.getfixturevalue(which).graph
    initializers = [tensor.name for tensor in proto.initializer]
    names = [
        *(value.name for value in proto.input),
        *initializers,
        *(name for node in proto.node for name in node.output),
    ]
    assert Counter(names).most_common(1)[0][1] == 1
    assert Counter(node.name for node in proto.node).most_common(1)[0][1] == 1
    used = {name for node in proto.node for name in node.input}
    assert used <= set(names) and set(initializers) <= used


def test_weights_have_the_names_of_their_layers(small, folded, graph):
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    for name in small.CONVOLUTIONS:
        kernel, bias = folded.get_layer(name).get_weights()
        axes = {"dw": (2, 3, 0, 1), "up": (3, 2, 0, 1)}.get(name, (3, 2, 0, 1))
        np.testing.assert_array_equal(values[f"{name}/kernel"], kernel.transpose(axes))
        np.testing.assert_array_equal(values[f"{name}/bias"], bias)


def test_two_exports_of_a_network_are_the_same_file(small, folded, graph):
    L.Conv2D(3, 3, name="conv1")(keras.Input((8, 8, 3)))  # counters of Keras and TensorFlow move on
    again = small.exported(folded)
    assert structure(again) == structure(graph)
    assert again.SerializeToString(deterministic=True) == graph.SerializeToString(deterministic=True)


# The graph


def test_a_resnet_is_made_of_these_operators_and_no_others(resnet_graph):
    assert Counter(node.op_type for node in resnet_graph.graph.node) == {
        "Conv": 33,
        "Relu": 17,
        "Add": 4 + 2,  # of blocks, of decoding
        "Reshape": 12,
        "Transpose": 8,  # none for the heads of the two maps of one cell
        "Concat": 2 + 2,
        "Slice": 5,
        "Mul": 4,
        "Min": 1,
        "Exp": 1,
        "Sub": 1,
        "Softmax": 1,
    }


def test_a_resnet_passes_the_full_checker_and_every_shape_is_known(resnet, resnet_graph):
    onnx.checker.check_model(resnet_graph, full_check=True)
    known = shapes(resnet_graph)
    assert known["boxes"] == ("batch", 2052, 4) and known["scores"] == ("batch", 2052, 3)
    for name in tensors(resnet_graph):
        assert all(isinstance(size, int) and size > 0 for size in known[name][1:]), name
    for name in ("conv1", "block_4a_relu", "ssd_loc_5"):
        height, width, channels = resnet.get_layer(name).output.shape[1:]
        assert known[name][1:] == (channels, height, width)


def test_a_resnet_has_no_reshape_or_transpose_that_changes_nothing(resnet_graph):
    known = shapes(resnet_graph)
    for node in resnet_graph.graph.node:
        if node.op_type in ("Reshape", "Transpose", "Identity"):
            assert known[node.input[0]][1:] != known[node.output[0]][1:], node.name


def reshapes(*steps, batch="batch"):
    """Input (batch,2,1,1), then reshapes to these shapes, each behind the one before; the last is the output."""
    nodes, constants, taken = [], [], "Input"
    for index, shape in enumerate(steps):
        constants.append(numpy_helper.from_array(np.array(shape, np.int64), f"shape{index}"))
        nodes.append(helper.make_node("Reshape", [taken, f"shape{index}"], [f"t{index}"], name=f"Reshape{index}"))
        taken = f"t{index}"
    nodes.append(helper.make_node("Relu", [taken], ["last"], name="last"))
    source = helper.make_tensor_value_info("Input", TensorProto.FLOAT, (batch, 2, 1, 1))
    result = helper.make_tensor_value_info("last", TensorProto.FLOAT, [None] * len(steps[-1]))
    graph = helper.make_graph(nodes, "g", [source], [result], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(
    ("steps", "left"),
    [
        ([(-1, 2, 1, 1)], []),
        ([(-1, 2, 1, 1), (-1, 2, 1, 1), (-1, 2)], ["Reshape2"]),
        ([(-1, 1, 1, 2), (-1, 2, 1, 1)], []),  # there and back; neither is idle by itself
        ([(-1, 2), (-1, 2, 1, 1), (-1, 1, 2, 1)], ["Reshape2"]),
        ([(-1, 1, 1, 2), (-1, 1, 1, 2)], ["Reshape0"]),
        ([(-1, 2)], ["Reshape0"]),
        ([(-1,)], ["Reshape0"]),
    ],
)
def test_idle_reshapes_go_and_the_others_stay(steps, left, small):
    proto = reshapes(*steps)
    pixels = np.random.default_rng(0).normal(size=(3, 2, 1, 1)).astype("float32")
    expected = small.run(proto, pixels)["last"]
    drop_idle_reshapes(proto)
    assert [node.name for node in proto.graph.node if node.op_type == "Reshape"] == left
    onnx.checker.check_model(proto, full_check=True)
    np.testing.assert_array_equal(small.run(proto, pixels)["last"], expected)


def test_an_idle_reshape_that_makes_an_output_stays(small):
    proto = reshapes((-1, 2, 1, 1))
    proto.graph.output[0].name = "t0"
    drop_idle_reshapes(proto)
    assert [node.name for node in proto.graph.node] == ["Reshape0", "last"]
    assert small.run(proto, np.ones((1, 2, 1, 1), "float32"))["t0"].shape == (1, 2, 1, 1)


def node(kind, name, inputs, *outputs):
    return helper.make_node(kind, inputs, list(outputs), name=name)


def test_names_that_would_meet_get_numbers_and_those_of_layers_stay_theirs():
    nodes = [
        node("Transpose", "Transpose__7", ["Input"], "t"),  # the converter's: scope of the first taker
        node("Conv", "a/Conv2D", ["t", "w"], "u"),
        node("Relu", "a/Relu", ["u"], "v"),
        node("Relu", "a/Relu_1", ["v"], "x"),
        node("Transpose", "a/transpose__9", ["x"], "y"),  # behind the layer, so no part of what it hands on
        node("Relu", "a/relu/act", ["y"], "z"),
        node("Add", "lost", ["z", "k"], "boxes"),
    ]
    weight = numpy_helper.from_array(np.ones((2, 2, 1, 1), np.float32), "w")
    constant = numpy_helper.from_array(np.ones(1, np.float32), "k")
    source = helper.make_tensor_value_info("Input", TensorProto.FLOAT, (1, 4, 4, 2))
    result = helper.make_tensor_value_info("boxes", TensorProto.FLOAT, None)
    proto = helper.make_model(helper.make_graph(nodes, "g", [source], [result], [weight, constant]))
    name_tensors(proto, ["a", "a/relu"])
    assert structure(proto) == [
        ("Transpose", "a/Transpose", ["Input"], ["a/transpose"]),
        ("Conv", "a/Conv", ["a/transpose", "a/kernel"], ["a/conv"]),
        ("Relu", "a/Relu", ["a/conv"], ["a/relu_1"]),
        ("Relu", "a/Relu_1", ["a/relu_1"], ["a/relu_2"]),
        ("Transpose", "a/Transpose_1", ["a/relu_2"], ["a/transpose_1"]),
        ("Relu", "a/Relu_2", ["a/transpose_1"], ["a"]),
        ("Add", "graph/Add", ["a", "graph/constant"], ["boxes"]),
    ]
    assert [tensor.name for tensor in proto.graph.initializer] == ["a/kernel", "graph/constant"]


def test_anchors_and_variances_are_those_given(small, tiny):
    corners = small.anchors(tiny, seed=9)
    proto = to_onnx(tiny, corners, (0.3, 0.2, 0.1, 0.4), opset=17)
    images = small.pictures(tiny, 1)
    outputs = {name: np.asarray(value) for name, value in tiny(images).items()}
    expected = small.decoded(outputs["class_logits"], outputs["offsets"], corners, (0.3, 0.2, 0.1, 0.4))
    np.testing.assert_allclose(small.run(proto, channels_first(images))["boxes"], expected["boxes"], atol=1e-4)

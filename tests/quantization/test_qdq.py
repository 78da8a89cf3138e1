"""Rounded graphs: the quantization-aware network in numbers, INT8 in form, and nothing that TensorRT refuses."""

from dataclasses import replace
from types import SimpleNamespace

import keras
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

pytest.importorskip("tensorflow", reason="networks are converted through TensorFlow")

from ssd.deploy.export_graph import tensor_ranges
from ssd.errors import InputError
from ssd.models.fold import fold_batch_norm
from ssd.quantization.fake_quant import FakeQuant
from ssd.quantization.qdq import check, insert_qdq, layer_of, quantized_edges, spread
from ssd.quantization.rewrite import quantize, strip

L = keras.layers
HEADS = {"class_logits": "mbox_conf", "offsets": "mbox_loc"}


def with_ranges(model, images, keep_float=()):
    """The quantization-aware form; each tensor with a range of its own, smaller than its largest number if none is
    negative."""
    quantized = quantize(model, keep_float)
    for layer in quantized.layers:
        if isinstance(layer, L.BatchNormalization):
            layer.trainable = False
    quantized(images, training=True)
    rng = np.random.default_rng(0)
    layers = [layer for layer in quantized.layers if isinstance(layer, FakeQuant)]
    tensors = keras.Model(quantized.input, [layer.input for layer in layers])(images)
    for layer, tensor in zip(layers, keras.tree.flatten(tensors), strict=True):
        layer.amax.assign(layer.amax * rng.uniform(*((1.0, 1.3) if np.min(tensor) < 0 else (0.6, 1.0))))
    return quantized


def deployed(small, quantized, **options):
    """The float graph inside a quantization-aware network, and the ranges of its tensors."""
    stripped, found = strip(quantized)
    network, gone = fold_batch_norm(stripped)
    return small.exported(network, **options), tensor_ranges(found, network, gone)


@pytest.fixture(scope="module")
def tiny(small):
    return small.detector()


@pytest.fixture(scope="module")
def images(small, tiny):
    return small.pictures(tiny, 8, seed=5)


@pytest.fixture(scope="module")
def trained(tiny, images):
    return with_ranges(tiny, images)


@pytest.fixture(scope="module")
def exported(small, trained):
    """(float graph, ranges)."""
    return deployed(small, trained)


@pytest.fixture(scope="module")
def rounded(exported):
    return insert_qdq(*exported)


def initializers(proto):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


def makers(proto):
    return {name: node for node in proto.graph.node for name in node.output}


def pairs(proto):
    """Rounded tensor -> (tensor, amax), read off the pairs."""
    made, values, found = makers(proto), initializers(proto), {}
    for node in proto.graph.node:
        if node.op_type == "QuantizeLinear":
            (other,) = (each for each in proto.graph.node if node.output[0] in each.input)
            assert other.op_type == "DequantizeLinear" and list(other.input[1:]) == list(node.input[1:])
            assert values[node.input[2]].dtype == np.int8 and values[node.input[2]].shape == ()
            assert node.input[0] in made or node.input[0] == "Input"
            found[other.output[0]] = (node.input[0], float(values[node.input[1]]) * 127)
    return found


def taken(proto, layer, op_type):
    """Where the first inputs of a layer's node come from: (tensor, amax) where rounded, else the name."""
    (node,) = (node for node in proto.graph.node if layer_of(node) == layer and node.op_type == op_type)
    rounded = pairs(proto)
    return [rounded.get(name, name) for name in node.input]


# Numbers


def assert_equals_training(small, proto, quantized, images, *, inputs=None):
    expected = {name: np.asarray(value) for name, value in quantized(images).items()}
    inputs = np.ascontiguousarray(images.transpose(0, 3, 1, 2)) if inputs is None else inputs
    # Without fusions: ONNX Runtime's own INT8 kernels round once more.
    found = small.run(small.watched(proto, HEADS.values()), inputs, optimized=False)
    for name, tensor in HEADS.items():
        error = np.abs(found[tensor] - expected[name]) / np.abs(expected[name]).max()
        # Where float32 falls on the other side of a half, a code differs by one.
        assert error.max() < 3e-3 and np.quantile(error, 0.98) < 1e-5
    return expected


def test_the_graph_computes_what_quantization_aware_training_saw(small, tiny, trained, rounded):
    fresh = small.pictures(tiny, 16, seed=9)
    seen = assert_equals_training(small, rounded, trained, fresh)
    for name, value in tiny(fresh).items():  # and that is not the float network
        assert np.abs(np.asarray(value) - seen[name]).max() > 0.02 * np.abs(seen[name]).max()


def test_layers_that_training_kept_in_float_stay_so(small, tiny, images):
    quantized = with_ranges(tiny, images, ["ssd_*_1", "conv1"])
    proto = insert_qdq(*deployed(small, quantized))
    assert_equals_training(small, proto, quantized, images)
    kernels = {name for name in initializers(proto) if name.endswith("/kernel")}
    assert kernels == {"conv1/kernel", "ssd_conf_1/kernel", "ssd_loc_1/kernel"}
    assert taken(proto, "conv1", "Conv")[0] == "Input"


def branches(small):
    """A stride with padding, a concatenation that is pooled, padded pooling, channel weights, a dropout."""
    images = keras.Input((16, 16, 3), name="Input")
    x = L.Conv2D(6, 3, strides=2, padding="same", activation="relu", name="stem")(images)
    left = L.Conv2D(4, 1, activation="relu", name="left")(x)
    right = L.Conv2D(4, 3, padding="same", name="right")(x)
    joined = L.Concatenate(name="joined")([left, right, x])
    pooled = L.MaxPooling2D(3, strides=2, name="pooled")(L.ZeroPadding2D(1, name="pad")(joined))
    y = L.Reshape((1, 1, 14), name="se_reshape")(L.GlobalAveragePooling2D(name="se_pool")(pooled))
    y = L.Conv2D(14, 1, activation="sigmoid", name="se_weights")(y)
    y = L.Conv2D(14, 1, use_bias=False, name="narrow")(L.Multiply(name="excite")([pooled, y]))
    y = L.Dropout(0.0, name="drop")(y)
    y = L.ReLU(name="sum_relu")(L.Add(name="sum")([pooled, y]))
    heads = {"conf": [], "loc": []}
    for index, features in enumerate((joined, y)):
        for kind in heads:
            head = L.Conv2D(8, 3, padding="same", name=f"ssd_{kind}_{index}")(features)
            heads[kind].append(L.Reshape((-1, 4), name=f"{kind}_reshape_{index}")(head))
    outputs = {name: L.Concatenate(axis=1, name=tensor)(heads[tensor[5:]]) for name, tensor in HEADS.items()}
    keras.utils.set_random_seed(1)
    return small.trained(keras.Model(images, outputs))


def test_branches_pools_and_paddings_compute_what_training_saw(small):
    model = branches(small)
    images = small.pictures(model, 8)
    quantized = with_ranges(model, images)
    proto = insert_qdq(*deployed(small, quantized))
    assert_equals_training(small, proto, quantized, images)
    amax = {name: float(quantized.get_layer(f"{name}_qdq").amax) for name in ("stem", "joined", "se_reshape", "drop")}
    found = pairs(proto)
    rounded = {}  # tensor -> its ranges
    for tensor, value in found.values():
        rounded.setdefault(tensor, []).append(pytest.approx(value, rel=1e-6))
    # What is joined has the range of the whole; what goes elsewhere too has both.
    assert rounded["left"] == rounded["right"] == [amax["joined"]]
    assert rounded["stem"] in ([amax["stem"], amax["joined"]], [amax["joined"], amax["stem"]])
    # Pools and paddings take codes and give them on; the sum takes what was pooled, rounded before.
    assert not {"pooled", "pad"} & set(rounded)
    assert taken(proto, "se_weights", "Conv")[0] == ("se_pool", pytest.approx(amax["se_reshape"], rel=1e-6))
    assert taken(proto, "sum", "Add") == ["pooled", ("narrow", pytest.approx(amax["drop"], rel=1e-6))]


def test_pixels_take_the_range_of_the_input_behind_preprocessing(small, trained, images):
    mean = np.array((103.9, 116.8, 123.7), np.float32)
    proto = insert_qdq(*deployed(small, trained, pixels=SimpleNamespace(channels=3, mean=tuple(mean))))
    onnx.checker.check_model(proto, full_check=True)
    rgb = np.rint(images + mean).clip(0, 255).astype(np.uint8)[..., ::-1].copy()
    pixels = rgb[..., ::-1].astype(np.float32) - mean
    assert_equals_training(small, proto, trained, pixels, inputs=rgb)
    tensor, amax = taken(proto, "conv1", "Conv")[0]
    assert tensor.startswith("preprocess/")
    assert amax == pytest.approx(float(trained.get_layer("Input_qdq").amax), rel=1e-6)


def test_negative_numbers_beyond_the_range_reach_one_code_further_than_in_training(small):
    images = keras.Input((4, 4, 1), name="Input")
    heads = {"conf": [], "loc": []}
    for kind in heads:
        # Two layers that are alike would be one in the graph.
        weight = keras.initializers.Constant(1.0 if kind == "loc" else 0.5)
        head = L.Conv2D(4, 1, kernel_initializer=weight, name=f"ssd_{kind}")(images)
        heads[kind] = L.Reshape((-1, 4), name=f"mbox_{kind}")(head)
    quantized = quantize(keras.Model(images, {name: heads[tensor[5:]] for name, tensor in HEADS.items()}))
    quantized.get_layer("Input_qdq").amax.assign(127.0)
    pixels = np.full((1, 4, 4, 1), -500, np.float32)
    pixels[0, 0, 0, 0] = 500
    proto = insert_qdq(*deployed(small, quantized))
    found = small.run(small.watched(proto, ["mbox_loc"]), pixels.transpose(0, 3, 1, 2), optimized=False)["mbox_loc"]
    np.testing.assert_allclose([found.min(), found.max()], [-128, 127])  # QuantizeLinear has all codes of an int8
    np.testing.assert_allclose(np.asarray(quantized(pixels)["offsets"]).min(), -127)


def test_graph_optimizations_change_little(small, tiny, images, exported, rounded):
    inputs = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    exact, found = small.run(exported[0], inputs), small.run(rounded, inputs)
    for name, value in exact.items():
        assert np.abs(found[name] - value).mean() < 0.05


# Form


def test_kernels_are_codes_with_one_scale_an_output_channel(small, exported, rounded):
    before, after, made = initializers(exported[0]), initializers(rounded), makers(rounded)
    for name in small.CONVOLUTIONS:
        (conv,) = (node for node in rounded.graph.node if layer_of(node) == name and "Conv" in node.op_type)
        assert f"{name}/kernel" not in after
        node = made[conv.input[1]]
        axis = 1 if name == "up" else 0
        assert node.op_type == "DequantizeLinear"
        assert {each.name: helper.get_attribute_value(each) for each in node.attribute} == {"axis": axis}
        codes, scale, zero = (after[each] for each in node.input)
        kernel = before[f"{name}/kernel"].astype(np.float64)
        others = tuple(number for number in range(4) if number != axis)
        expected = np.abs(kernel).max(axis=others) / 127
        assert (codes.dtype, scale.dtype, zero.dtype) == (np.int8, np.float32, np.int8)
        assert codes.shape == kernel.shape and scale.shape == zero.shape == expected.shape
        np.testing.assert_allclose(scale, expected, rtol=1e-6)
        assert not zero.any()
        assert (np.abs(codes.astype(int)).max(axis=others) == 127).all()  # the whole range, -128 never
        shape = [-1 if number == axis else 1 for number in range(4)]
        steps = kernel / expected.reshape(shape)
        assert np.abs(codes - steps).max() <= 0.5 + 1e-4
        np.testing.assert_array_equal(after[conv.input[2]], before[f"{name}/bias"])  # biases stay


def test_activations_have_one_scale_and_the_zero_is_code_0(exported, rounded):
    found = pairs(rounded)
    assert {tensor for tensor, _ in found.values()} == {"Input", "relu1", "dw", "add", "conv2", "join", "up"}
    for tensor, amax in found.values():
        key = "join" if tensor == "up" else tensor
        assert amax == pytest.approx(exported[1].amax[key], rel=1e-6) or (
            tensor == "add" and amax == pytest.approx(exported[1].amax["join"], rel=1e-6)
        )


def test_all_that_is_joined_has_the_scale_of_the_whole(exported, rounded):
    whole = pytest.approx(exported[1].amax["join"], rel=1e-6)
    assert taken(rounded, "join", "Concat") == [("up", whole), ("add", whole)]
    for head in ("ssd_conf_0", "ssd_loc_0"):
        assert taken(rounded, head, "Conv")[0] == ("join", whole)
    # The same sum, where it is pooled, keeps its own range.
    assert taken(rounded, "pool", "MaxPool") == [("add", pytest.approx(exported[1].amax["add"], rel=1e-6))]


def test_both_inputs_of_an_addition_are_rounded_and_those_of_decoding_are_not(exported, rounded):
    amax = exported[1].amax
    assert taken(rounded, "add", "Add") == [
        ("relu1", pytest.approx(amax["relu1"], rel=1e-6)),
        ("dw", pytest.approx(amax["dw"], rel=1e-6)),
    ]
    for node in rounded.graph.node:
        if layer_of(node) in ("decode", "mbox_conf", "mbox_loc"):
            assert not set(node.input) & set(pairs(rounded)), node.name


def test_one_pair_serves_all_takers_and_the_rest_of_the_graph_stays(exported, rounded):
    quantizers = [node for node in rounded.graph.node if node.op_type == "QuantizeLinear"]
    assert len(quantizers) == 8  # of seven tensors; the sum goes into the concatenation too
    added = {"QuantizeLinear", "DequantizeLinear"}
    kept = [(node.name, list(node.output)) for node in rounded.graph.node if node.op_type not in added]
    assert kept == [(node.name, list(node.output)) for node in exported[0].graph.node]
    names = [node.name for node in rounded.graph.node]
    assert len(set(names)) == len(names)
    onnx.checker.check_model(rounded, full_check=True)


def test_the_given_graph_stays(small, trained, exported):
    before = exported[0].SerializeToString(deterministic=True)
    insert_qdq(*exported)
    assert exported[0].SerializeToString(deterministic=True) == before


def test_one_layer_may_be_rounded_alone(exported):
    whole = pytest.approx(exported[1].amax["relu1"], rel=1e-6)
    proto = insert_qdq(*exported, only="dw")
    assert taken(proto, "add", "Add") == ["relu1", "dw"] and taken(proto, "dw", "Conv")[0] == ("relu1", whole)
    assert {name for name in initializers(proto) if name.endswith("_codes")} == {"dw/kernel_codes"}
    proto = insert_qdq(*exported, only="add")
    assert taken(proto, "add", "Add")[0] == ("relu1", whole) and taken(proto, "dw", "Conv")[0] == "relu1"
    assert not {name for name in initializers(proto) if name.endswith("_codes")}


@pytest.mark.parametrize(
    ("patterns", "rounded"),
    [
        (["add"], False),
        (["*"], False),
        (["conv1", "dw", "conv2", "ssd_*"], False),  # all before and behind it; what makes the other joined map is not
        (["conv1", "dw", "conv2"], True),  # the heads behind the concatenation are beside it too
        (["conv2", "ssd_*", "up"], True),
    ],
)
def test_an_addition_is_left_out_by_name_and_where_nothing_beside_it_is_rounded(patterns, rounded, exported):
    proto = insert_qdq(*exported, patterns)
    assert (taken(proto, "add", "Add") == ["relu1", "dw"]) != rounded
    if patterns == ["*"]:
        assert not pairs(proto)


def test_ranges_spread_to_what_is_joined_and_handed_on(exported):
    proto, table = exported
    found = spread(proto, table.amax)
    assert found.items() >= table.amax.items()
    assert found["up"] == table.amax["join"] and found["pool"] == table.amax["add"]
    assert found["add"] == table.amax["add"]  # its own, though it is joined too
    assert "conv1" not in found and spread(proto, {}) == {}


# Which layers


@pytest.mark.parametrize(
    ("patterns", "kept"),
    [
        (["conv2"], {"conv2"}),
        (["ssd_conf_*"], {"ssd_conf_0", "ssd_conf_1"}),
        (["ssd_*_1", "up", "conv?"], {"ssd_conf_1", "ssd_loc_1", "up", "conv1", "conv2"}),
        (["*"], {"conv1", "dw", "conv2", "up", "ssd_conf_0", "ssd_loc_0", "ssd_conf_1", "ssd_loc_1"}),
    ],
)
def test_keep_fp_leaves_out_what_its_patterns_mean(patterns, kept, small, exported):
    proto = insert_qdq(*exported, patterns)
    kernels = {name.removesuffix("/kernel") for name in initializers(proto) if name.endswith("/kernel")}
    assert kernels == kept
    _, convolutions = quantized_edges(exported[0], patterns)
    assert set(convolutions) == set(small.CONVOLUTIONS) - kept
    for name in kept:
        (node,) = (node for node in proto.graph.node if layer_of(node) == name and "Conv" in node.op_type)
        assert node.input[1] == f"{name}/kernel"
        assert name == "conv2" or node.input[0] not in pairs(proto)
    # The pool before conv2 is rounded only for it.
    if "conv2" in kept:
        assert taken(proto, "pool", "MaxPool") == ["add"]


def test_a_pattern_that_fits_nothing_is_refused(exported):
    with pytest.raises(InputError, match=r"--keep_fp conv_9: fits none of the 9 convolutions and additions"):
        insert_qdq(*exported, ["conv1", "conv_9"])
    with pytest.raises(InputError, match="--keep_fp join"):  # a layer of another kind
        quantized_edges(exported[0], ["join"])


def test_edges_name_the_layer_that_they_are_for(exported):
    edges, convolutions = quantized_edges(exported[0])
    assert {(edge.tensor, edge.taker, edge.range, edge.consumer) for edge in edges} == {
        ("Input", "conv1/Conv", "Input", "conv1"),
        ("relu1", "dw/Conv", "relu1", "dw"),
        ("relu1", "add/Add", "relu1", "add"),
        ("dw", "add/Add", "dw", "add"),
        ("add", "pool/MaxPool", "add", "conv2"),
        ("conv2", "up/ConvTranspose", "conv2", "up"),
        ("conv2", "ssd_conf_1/Conv", "conv2", "ssd_conf_1"),
        ("conv2", "ssd_loc_1/Conv", "conv2", "ssd_loc_1"),
        *(("join", f"{head}/Conv", "join", head) for head in ("ssd_conf_0", "ssd_loc_0")),
        *((tensor, "join/Concat", "join", f"ssd_{k}_0") for tensor in ("up", "add") for k in ("conf", "loc")),
    }
    assert len(convolutions) == 8


# Ranges


def test_a_missing_range_is_said_and_how_many_more(exported):
    proto, table = exported
    with pytest.raises(InputError, match="no range for tensor dw: the table is of another network"):
        insert_qdq(proto, replace(table, amax={k: v for k, v in table.amax.items() if k != "dw"}))
    with pytest.raises(InputError, match="no range for tensor Input and 5 more"):
        insert_qdq(proto, replace(table, amax={}))
    # Those that nothing takes need none.
    insert_qdq(proto, replace(table, amax={k: v for k, v in table.amax.items() if k != "Input"}), ["conv1"])


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
def test_a_range_that_is_no_positive_number_is_refused(value, exported):
    proto, table = exported
    with pytest.raises(InputError, match="the range of tensor join is"):
        insert_qdq(proto, replace(table, amax={**table.amax, "join": value}))


def test_a_tensor_and_a_channel_of_zeros_are_taken(small, tiny, images):
    stripped, _ = strip(quantize(tiny))
    kernel = stripped.get_layer("conv2").get_weights()[0]
    kernel[..., 3] = 0
    stripped.get_layer("conv2").set_weights([kernel, stripped.get_layer("conv2").get_weights()[1]])
    quantized = with_ranges(stripped, images)
    quantized.get_layer("dw_bn_qdq").amax.assign(0.0)
    proto = insert_qdq(*deployed(small, quantized))
    assert all((value > 0).all() for name, value in initializers(proto).items() if "scale" in name)
    assert_equals_training(small, proto, quantized, images)


# What TensorRT refuses


def damaged(rounded):
    copy = onnx.ModelProto()
    copy.CopyFrom(rounded)
    return copy


def set_value(proto, name, value):
    (tensor,) = (tensor for tensor in proto.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(value), name))


def last_changed(proto, name, value):
    """The value of a constant, its last element another."""
    array = np.array(initializers(proto)[name])
    array.reshape(-1)[-1] = value
    return array


def test_what_is_inserted_passes(rounded):
    check(rounded)


@pytest.mark.parametrize("name", ["relu1/zero_point", "dw/kernel_zero_point"])
def test_a_zero_point_that_is_not_0_is_refused(name, rounded):
    proto = damaged(rounded)
    set_value(proto, name, last_changed(rounded, name, 3))
    with pytest.raises(InputError, match=name.partition("/")[0] + r".*: a zero point that is not 0"):
        check(proto)


def test_unsigned_codes_are_refused(rounded):
    proto = damaged(rounded)
    set_value(proto, "relu1/zero_point", np.uint8(0))
    with pytest.raises(InputError, match="relu1/QuantizeLinear: a zero point"):
        check(proto)


@pytest.mark.parametrize("value", [0.0, -0.5, np.nan, np.inf])
@pytest.mark.parametrize("name", ["relu1/scale", "dw/kernel_scale"])
def test_a_scale_that_is_no_positive_number_is_refused(name, value, rounded):
    proto = damaged(rounded)
    set_value(proto, name, last_changed(rounded, name, value))
    with pytest.raises(InputError, match=name.partition("/")[0] + r".*: scale .*; a positive number is needed"):
        check(proto)


def test_codes_that_something_else_takes_are_refused(rounded):
    proto = damaged(rounded)
    proto.graph.node.append(helper.make_node("Cast", ["relu1/codes"], ["x"], name="other", to=TensorProto.FLOAT))
    with pytest.raises(InputError, match="relu1/QuantizeLinear: the codes of relu1 are not dequantized at once"):
        check(proto)


def test_codes_that_nothing_takes_are_refused(rounded):
    proto = damaged(rounded)
    (node,) = (node for node in proto.graph.node if node.name == "relu1/Dequantize")
    proto.graph.node.remove(node)
    with pytest.raises(InputError, match="the codes of relu1 are not dequantized at once"):
        check(proto)


def test_a_rounded_bias_is_refused(rounded):
    proto = damaged(rounded)
    bias = initializers(rounded)["conv2/bias"]
    parts = {"codes": np.zeros(len(bias), np.int8), "bias_scale": np.float32(1), "bias_zero": np.int8(0)}
    for name, value in parts.items():
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    proto.graph.node.insert(0, helper.make_node("DequantizeLinear", list(parts), ["b"], name="bias/Dequantize"))
    (conv,) = (node for node in proto.graph.node if node.name == "conv2/Conv")
    conv.input[2] = "b"
    with pytest.raises(InputError, match="bias/Dequantize: the bias of conv2/Conv is rounded"):
        check(proto)


def test_a_rounded_softmax_is_refused(rounded):
    proto = damaged(rounded)
    (softmax,) = (node for node in proto.graph.node if node.op_type == "Softmax")
    softmax.input[0] = "join/rounded"
    with pytest.raises(InputError, match="join/Dequantize: the input of decode/Softmax is rounded"):
        check(proto)

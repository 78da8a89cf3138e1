"""What is quantized in which network, that the way back gives the float network, and that files keep both."""

import functools

import keras
import numpy as np
import pytest

from ssd.errors import ModelError, SpecError
from ssd.models.checkpoint import load_model, save_model
from ssd.models.detector import build_detector
from ssd.pruning.plan import Pruner, Rules
from ssd.quantization.fake_quant import FakeQuant, QuantConv2D, QuantConv2DTranspose, QuantDepthwiseConv2D
from ssd.quantization.rewrite import is_quantized, quantize, strip

L = keras.layers
KERNELS = (QuantConv2D, QuantDepthwiseConv2D, QuantConv2DTranspose)


@pytest.fixture(scope="module")
def detector(network):
    @functools.cache
    def make(**changes):
        keras.utils.set_random_seed(0)
        return build_detector(network(**changes), (128, 128, 3), 3)

    return make


@pytest.fixture(scope="module")
def quantized_detector(detector):
    """Nobody changes what it gives."""
    return functools.cache(lambda **changes: quantize(detector(**changes)))


def sources(model):
    """Layer name -> the layers whose tensors it takes, read off the Keras tensors."""
    found = {}
    for layer in model.layers:
        for node in layer._inbound_nodes:
            found.setdefault(layer.name, []).extend(
                tensor._keras_history.operation.name for tensor in node.input_tensors
            )
    return found


def takes_codes(model, name, above):
    """Whether what `name` takes is rounded, perhaps above paddings and poolings."""
    for source in above[name]:
        while isinstance(model.get_layer(source), L.ZeroPadding2D | L.MaxPooling2D):
            (source,) = above[source]
        if not isinstance(model.get_layer(source), FakeQuant):
            return False
    return True


NETWORKS = [
    {"nlayers": 10},
    {"arch": "mobilenet_v2", "nlayers": None},
    {"arch": "googlenet", "nlayers": None},
    {"arch": "efficientnet_b0", "nlayers": None},
    {"nlayers": 10, "dssd": True, "pred_num_channels": 256},
]


@pytest.mark.parametrize("changes", NETWORKS, ids=["resnet", "mobilenet", "googlenet", "efficientnet", "dssd"])
def test_every_convolution_and_addition_takes_codes_and_nothing_behind_the_heads_does(
    changes, detector, quantized_detector
):
    model, quantized = detector(**changes), quantized_detector(**changes)
    above = sources(quantized)
    for layer in quantized.layers:
        if isinstance(layer, L.Conv2D | L.DepthwiseConv2D | L.Conv2DTranspose):
            assert isinstance(layer, KERNELS), layer.name
        if isinstance(layer, (*KERNELS, L.Add)):
            assert takes_codes(quantized, layer.name, above), layer.name
        if isinstance(layer, L.BatchNormalization | L.Reshape | L.ReLU | L.Multiply):
            assert not any(isinstance(quantized.get_layer(name), FakeQuant) for name in above[layer.name]), layer.name
    assert quantized.output_shape == model.output_shape
    assert quantized.name == model.name
    # A tensor has one range wherever it goes.
    rounded = [above[layer.name][0] for layer in quantized.layers if isinstance(layer, FakeQuant)]
    assert len(rounded) == len(set(rounded))


def test_a_concatenation_is_rounded_as_a_whole_and_pools_give_codes_on(quantized_detector):
    quantized = quantized_detector(arch="googlenet", nlayers=None)
    above = sources(quantized)
    assert above["inception_3b_1x1"] == ["inception_3a_output_qdq"]
    assert above["inception_3a_output_qdq"] == ["inception_3a_output"]
    assert above["inception_3b_pool"] == ["inception_3a_output_qdq"]
    assert above["inception_3b_pool_proj"] == ["inception_3b_pool"]
    names = {layer.name for layer in quantized.layers}
    assert "Input_qdq" in names
    assert "inception_3a_1x1_bn_qdq" not in names


def images():
    return np.random.default_rng(0).normal(size=(2, 128, 128, 3)).astype("float32") * 40


def test_the_way_back_gives_the_float_network_and_the_ranges(detector):
    model = detector()
    quantized = quantize(model, ["ssd_conf_*", "conv1"])
    for layer in quantized.layers:
        if isinstance(layer, FakeQuant):
            layer.amax.assign(1.5)
    stripped, quantization = strip(quantized)
    assert [layer.name for layer in stripped.layers] == [layer.name for layer in model.layers]
    for before, after in zip(model.layers, stripped.layers, strict=True):
        assert type(before) is type(after)
        assert before.get_config() == after.get_config()
        for one, other in zip(before.get_weights(), after.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)
    found, expected = (each(images()) for each in (stripped, model))
    for name in expected:
        np.testing.assert_array_equal(np.asarray(found[name]), np.asarray(expected[name]))
    assert quantization.amax["block_1a_relu"] == 1.5
    assert "Input" not in quantization.amax  # conv1 alone takes it, and stays float
    assert "block_1a_conv_1" in quantization.convolutions
    assert "ssd_loc_0" in quantization.convolutions
    assert not {"conv1", "ssd_conf_0"} & set(quantization.convolutions)


def test_with_ranges_it_computes_nearly_what_the_float_network_does(detector):
    model = detector()
    quantized = quantize(model)
    for layer in quantized.layers:  # the batch norms shall see what inference sees
        if isinstance(layer, L.BatchNormalization):
            layer.trainable = False
    quantized(images(), training=True)
    found, expected = (each(images()) for each in (quantized, model))
    for name in expected:
        one, other = np.asarray(found[name]), np.asarray(expected[name])
        error = np.sqrt(np.mean((one - other) ** 2) / np.mean(other**2))
        assert 1e-4 < error < 0.1


def test_files_keep_ranges_and_any_precision_runs_them(detector, tmp_path):
    quantized = quantize(detector())
    quantized(images(), training=True)
    save_model(tmp_path / "q.keras", quantized, "spec")
    loaded = load_model(tmp_path / "q.keras", verb=None).model
    assert is_quantized(loaded)
    found, expected = loaded(images()), quantized(images())
    for name in expected:
        np.testing.assert_array_equal(np.asarray(found[name]), np.asarray(expected[name]))
    mixed = load_model(tmp_path / "q.keras", verb=None, precision="mixed_bfloat16").model
    assert {layer.compute_dtype for layer in mixed.layers if isinstance(layer, KERNELS)} == {"bfloat16"}
    assert mixed(images()[:1])["offsets"].dtype == "float32"


def test_a_pruned_network_is_quantized_and_the_other_way_round(detector):
    model = detector()
    pruned = Pruner(model, Rules()).prune(0.97)
    quantized = quantize(pruned)
    assert quantized.get_layer("block_4a_conv_1").filters == pruned.get_layer("block_4a_conv_1").filters < 512
    stripped, _ = strip(quantized)
    assert Pruner(stripped, Rules()).prune(0.99).count_params() < pruned.count_params()


def test_what_cannot_be_quantized_is_said(detector, quantized_detector):
    model = detector()
    with pytest.raises(SpecError, match=r'"conv_9" fits none of the \d+ convolutions'):
        quantize(model, ["conv_9"])
    with pytest.raises(ModelError, match="already"):
        quantize(quantized_detector())
    x = keras.Input((8, 8, 3))
    conv = L.Conv2D(3, 1, name="twice")
    with pytest.raises(ModelError, match="twice is used more than once"):
        quantize(keras.Model(x, conv(conv(x))))

"""Folding of batch normalisation: the same function, fewer layers, and every BN that must stay stays."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssd.models.batch_norm import BatchNormalization
from ssd.models.depthwise import DepthwiseConv2D
from ssd.models.detector import build_detector
from ssd.models.fold import fold_batch_norm

L = keras.layers
# Without bias, as in our networks, and with one, as a foreign file may have it.
KINDS = {
    "conv": lambda bias: L.Conv2D(5, 3, strides=2, padding="same", use_bias=bias, name="conv"),
    "grouped conv": lambda bias: L.Conv2D(6, 3, groups=3, use_bias=bias, name="conv"),
    "depthwise": lambda bias: L.DepthwiseConv2D(3, padding="same", use_bias=bias, name="conv"),
    "own depthwise": lambda bias: DepthwiseConv2D(3, strides=2, use_bias=bias, name="conv"),
    "transposed": lambda bias: L.Conv2DTranspose(5, 2, strides=2, use_bias=bias, name="conv"),
}


def trained(model, seed=0):
    """As after a training: no weight at its initial value, gammas of both signs and one of zero."""
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, L.BatchNormalization):
            size = layer.gamma.shape
            gamma = rng.normal(size=size)
            gamma[0] = 0
            layer.set_weights([gamma, rng.normal(size=size), rng.normal(size=size), rng.uniform(0.01, 2, size)])
        elif layer.weights:
            layer.set_weights([rng.normal(size=weight.shape) for weight in layer.get_weights()])
    return model


def pixels(model, seed=1):
    return np.random.default_rng(seed).normal(size=(2, *model.input_shape[1:])).astype("float32")


def assert_same_function(model, folded, tolerance=1e-5):
    images = pixels(model)
    found, expected = (keras.tree.flatten(each(images, training=False)) for each in (folded, model))
    for one, other in zip(found, expected, strict=True):
        one, other = np.asarray(one), np.asarray(other)
        scale = np.abs(other).max()
        assert scale > 0.1
        np.testing.assert_allclose(one / scale, other / scale, atol=tolerance)


def norms(model):
    return [layer.name for layer in model.layers if isinstance(layer, L.BatchNormalization)]


def names(model):
    return [layer.name for layer in model.layers]


@pytest.mark.parametrize("bias", [False, True], ids=["without bias", "with bias"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_norm_behind_a_convolution_is_multiplied_into_it(kind, bias):
    images = keras.Input((6, 6, 3), name="Input")
    x = BatchNormalization(epsilon=1e-3, name="bn")(KINDS[kind](bias)(images))
    model = trained(keras.Model(images, L.ReLU(name="relu")(x), name="net"))
    before = [weight.copy() for weight in model.get_weights()]
    folded, gone = fold_batch_norm(model)
    assert names(folded) == ["Input", "conv", "relu"]
    assert gone == {"bn": "conv"}
    assert folded.name == "net"
    assert folded.get_layer("conv").use_bias and len(folded.get_layer("conv").get_weights()) == 2
    assert_same_function(model, folded)
    for weight, kept in zip(model.get_weights(), before, strict=True):  # the given network is left alone
        np.testing.assert_array_equal(weight, kept)


def test_the_weights_are_those_of_the_formula_in_float64():
    images = keras.Input((2, 2, 3))
    conv = L.Conv2D(4, 1, name="conv")
    model = trained(keras.Model(images, L.BatchNormalization(epsilon=0.01, name="bn")(conv(images))))
    kernel, bias = (weight.astype(np.float64) for weight in conv.get_weights())
    gamma, beta, mean, variance = (weight.astype(np.float64) for weight in model.get_layer("bn").get_weights())
    folded = fold_batch_norm(model)[0].get_layer("conv")
    std = (variance + 0.01) ** 0.5
    # One rounding to float32, at the end.
    np.testing.assert_array_equal(folded.get_weights()[0], (kernel * (gamma / std)).astype(np.float32))
    expected = (gamma * (bias - mean) / std + beta).astype(np.float32)
    np.testing.assert_allclose(folded.get_weights()[1], expected, rtol=1e-6)


def conv_and_norm(x, number, **options):
    conv = L.Conv2D(4, 3, padding="same", use_bias=False, name=f"conv{number}", **options)(x)
    return conv, L.BatchNormalization(name=f"bn{number}")(conv)


def test_a_norm_whose_convolution_has_another_taker_stays():
    images = keras.Input((5, 5, 3), name="Input")
    conv, x = conv_and_norm(images, 1)
    _, y = conv_and_norm(L.Add(name="add")([conv, x]), 2)
    model = trained(keras.Model(images, y))
    folded, gone = fold_batch_norm(model)
    assert norms(folded) == ["bn1"]
    assert gone == {"bn2": "conv2"}
    assert_same_function(model, folded)


def test_a_norm_whose_convolution_is_an_output_of_the_network_stays():
    images = keras.Input((5, 5, 3), name="Input")
    conv, x = conv_and_norm(images, 1)
    model = trained(keras.Model(images, {"raw": conv, "normal": x}))
    folded, gone = fold_batch_norm(model)
    assert norms(folded) == ["bn1"] and gone == {}
    assert_same_function(model, folded)


@pytest.mark.parametrize("between", [L.ReLU, L.ZeroPadding2D, L.MaxPooling2D], ids=lambda kind: kind.__name__)
def test_a_norm_behind_something_else_stays(between):
    images = keras.Input((6, 6, 3), name="Input")
    x = L.Conv2D(4, 3, name="conv")(images)
    model = trained(keras.Model(images, L.BatchNormalization(name="bn")(between(name="between")(x))))
    folded, gone = fold_batch_norm(model)
    assert names(folded) == names(model) and gone == {}
    assert_same_function(model, folded)


def test_a_norm_behind_a_convolution_with_an_activation_or_behind_the_input_stays():
    images = keras.Input((6, 6, 3), name="Input")
    x = L.BatchNormalization(name="bn0")(images)
    _, x = conv_and_norm(x, 1, activation="relu")
    model = trained(keras.Model(images, x))
    folded, gone = fold_batch_norm(model)
    assert norms(folded) == ["bn0", "bn1"] and gone == {}
    assert_same_function(model, folded)


def test_a_norm_behind_a_dropout_stays_and_the_dropout_goes():
    images = keras.Input((6, 6, 3), name="Input")
    x = L.Dropout(0.5, name="drop")(L.Conv2D(4, 3, name="conv")(images))
    model = trained(keras.Model(images, L.BatchNormalization(name="bn")(x)))
    folded, gone = fold_batch_norm(model)
    assert names(folded) == ["Input", "conv", "bn"] and gone == {"drop": "conv"}
    assert_same_function(model, folded)


def test_the_second_of_two_norms_in_a_row_stays():
    images = keras.Input((6, 6, 3), name="Input")
    _, x = conv_and_norm(images, 1)
    model = trained(keras.Model(images, L.BatchNormalization(name="second")(x)))
    folded, gone = fold_batch_norm(model)
    assert norms(folded) == ["second"] and gone == {"bn1": "conv1"}
    assert_same_function(model, folded)


def test_dropouts_go_with_what_stands_before_them():
    images = keras.Input((6, 6, 3), name="Input")
    _, x = conv_and_norm(L.Dropout(0.5, name="drop0")(images), 1)
    x = L.Dropout(0.2, noise_shape=(None, 1, 1, 1), name="drop1")(x)
    x = L.Dropout(0.2, name="drop3")(L.Dropout(0.2, name="drop2")(L.ReLU(name="relu")(x)))
    model = trained(keras.Model(images, x))
    folded, gone = fold_batch_norm(model)
    assert names(folded) == ["Input", "conv1", "relu"]
    assert gone == {"bn1": "conv1", "drop0": "Input", "drop1": "conv1", "drop2": "relu", "drop3": "relu"}
    assert_same_function(model, folded)


def shared_convolution(images):
    conv = L.Conv2D(3, 3, padding="same", use_bias=False, name="conv")
    x = L.BatchNormalization(name="bn1")(conv(images))
    return L.BatchNormalization(name="bn2")(conv(x))


def shared_convolution_with_one_norm(images):
    conv = L.Conv2D(3, 3, padding="same", use_bias=False, name="conv")
    return conv(L.ReLU()(L.BatchNormalization(name="bn")(conv(images))))


def shared_norm(images):
    norm = L.BatchNormalization(name="bn")
    x = norm(L.Conv2D(3, 3, padding="same", use_bias=False, name="conv")(images))
    return norm(L.ReLU(name="relu")(x))


@pytest.mark.parametrize("build", [shared_convolution, shared_convolution_with_one_norm, shared_norm])
def test_what_is_used_more_than_once_stays(build):
    images = keras.Input((5, 5, 3), name="Input")
    model = trained(keras.Model(images, build(images)))
    folded, gone = fold_batch_norm(model)
    assert norms(folded) == norms(model) and gone == {}
    assert_same_function(model, folded)


@settings(max_examples=12)
@given(data=st.data(), seed=st.integers(0, 100))
def test_random_networks_stay_the_same_function(data, seed):
    images = keras.Input((6, 6, 4), name="Input")
    tensors = [images]
    for _ in range(data.draw(st.integers(2, 10))):
        x = data.draw(st.sampled_from(tensors[-3:]))
        kind = data.draw(st.sampled_from(("conv", "depthwise", "norm", "norm", "norm", "relu", "add")))
        bias = data.draw(st.booleans())
        make = {
            "conv": lambda x, bias=bias: L.Conv2D(4, 3, padding="same", use_bias=bias)(x),
            "depthwise": lambda x, bias=bias: L.DepthwiseConv2D(3, padding="same", use_bias=bias)(x),
            "norm": lambda x: L.BatchNormalization()(x),
            "relu": lambda x: L.ReLU()(x),
            "add": lambda x: L.Add()([x, data.draw(st.sampled_from(tensors))]),
        }
        tensors.append(make[kind](x))
    model = keras.Model(images, [tensors[-1], tensors[-2]])
    for index, layer in enumerate(model.layers):  # small weights: the numbers shall not grow with the depth
        scale = 0.3 if isinstance(layer, L.Conv2D | L.DepthwiseConv2D) else 1.0
        rng = np.random.default_rng(seed + index)
        layer.set_weights([rng.uniform(0.2, 1, weight.shape) * scale for weight in layer.get_weights()])
    assert_same_function(model, fold_batch_norm(model)[0])


def test_a_detector_is_deployed_without_any_norm(network):
    model = trained(build_detector(network(), (128, 128, 3), 3))
    folded, gone = fold_batch_norm(model)
    assert not norms(folded)
    assert sorted(gone) == sorted(norms(model))
    assert names(folded) == [name for name in names(model) if name not in gone]
    assert gone["block_1a_bn_1"] == "block_1a_conv_1"
    assert_same_function(model, folded, tolerance=1e-4)

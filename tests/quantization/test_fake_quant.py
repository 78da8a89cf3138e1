"""Rounding to INT8 codes against float64 numpy, its gradient against the definition, ranges step by step."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from keras import ops

from ssd.models.running_statistics import count_steps, settle
from ssd.quantization.fake_quant import FakeQuant, QuantConv2D, QuantConv2DTranspose, QuantDepthwiseConv2D, fake_quant

L = keras.layers


def rounded(x, amax):
    """Codes by the definition, in float64."""
    step = np.maximum(np.asarray(amax, "float64"), 1e-12) / 127
    codes = np.clip(np.round(np.asarray(x, "float64") / step), -127, 127)
    return codes * step


numbers = arrays.arrays(np.float32, (4, 7), elements=st.floats(-300, 300, width=32))


@given(x=numbers, amax=st.floats(0.015625, 300, width=32))
def test_values_are_the_nearest_codes(x, amax):
    found = ops.convert_to_numpy(fake_quant(ops.convert_to_tensor(x), amax))
    step = amax / 127
    codes = found / step
    np.testing.assert_allclose(codes, np.round(codes), atol=1e-3)
    assert np.abs(codes).max() <= 127.001
    # float32 may take the other of two codes where a number is in the middle.
    np.testing.assert_allclose(found, np.clip(x, -amax, amax), atol=step * 0.5001)


def test_the_original_toolkits_vector():
    assert float(fake_quant(ops.convert_to_tensor(1.0), 6.0)) == pytest.approx(0.992126, abs=1e-6)  # code 21


def test_half_goes_to_even_and_zero_ranges_give_zero():
    x = ops.convert_to_tensor(np.array([0.5, 1.5, 2.5, -0.5, -1.5], "float32"))
    np.testing.assert_allclose(ops.convert_to_numpy(fake_quant(x, 127.0)), [0, 2, 2, 0, -2])
    np.testing.assert_array_equal(ops.convert_to_numpy(fake_quant(x, 0.0)), np.zeros(5))


def gradient(function, x):
    """d sum(function) / dx on either backend."""
    if keras.backend.backend() == "jax":
        import jax

        return np.asarray(jax.grad(lambda value: ops.sum(function(value)))(x))
    import tensorflow as tf

    value = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(value)
        total = ops.sum(function(value))
    return tape.gradient(total, value).numpy()


def test_the_gradient_goes_straight_through_inside_the_range_and_nowhere_else():
    x = np.array([-3.0, -2.0, -1.9, -0.01, 0.0, 0.4, 1.99, 2.0, 2.5], "float32")  # the ends are inside
    weight = np.arange(1, 10, dtype="float32")
    found = gradient(lambda value: weight * fake_quant(value, 2.0), x)
    np.testing.assert_allclose(found, weight * (np.abs(x) <= 2))


def layer_in_a_model(layer, shape=(5, 5, 3)):
    images = keras.Input(shape)
    return keras.Model(images, layer(images))


def test_ranges_begin_with_the_first_batch_and_then_average():
    layer = FakeQuant(momentum=0.9)
    model = layer_in_a_model(layer)
    assert float(ops.convert_to_numpy(layer.amax)) == 0
    expected, rng = 0.0, np.random.default_rng(0)
    for step in range(5):
        x = rng.normal(size=(2, 5, 5, 3)).astype("float32") * (step + 1)
        kept = 0.9 if step else 0.0
        expected = kept * expected + (1 - kept) * np.abs(x).max()
        # What a training step sees is rounded with the range that it has just updated.
        np.testing.assert_allclose(np.asarray(model(x, training=True)), rounded(x, expected), atol=expected / 200)
    assert float(ops.convert_to_numpy(layer.amax)) == pytest.approx(expected, rel=1e-5)
    model(x * 100)
    assert float(ops.convert_to_numpy(layer.amax)) == pytest.approx(expected, rel=1e-5)  # inference looks on


def test_ranges_follow_the_counted_steps_and_settle():
    layer = FakeQuant()
    model = layer_in_a_model(layer)
    counter = keras.Variable(0, dtype="int32", trainable=False)
    count_steps(model, counter)
    expected = 0.0
    for step in range(4):
        x = np.full((1, 5, 5, 3), step + 1.0, "float32")
        model(x, training=True)
        kept = (1 + step) / (10 + step) if step else 0.0
        expected = kept * expected + (1 - kept) * (step + 1)
        counter.assign(step + 1)
    assert float(ops.convert_to_numpy(layer.amax)) == pytest.approx(expected, rel=1e-5)
    settle(model)
    model(x * 50, training=True)
    assert float(ops.convert_to_numpy(layer.amax)) == pytest.approx(expected, rel=1e-5)


def test_a_range_that_settled_before_there_was_one_takes_the_first_batchs():
    layer = FakeQuant()
    model = layer_in_a_model(layer)
    settle(model)
    x = np.random.default_rng(0).normal(size=(2, 5, 5, 3)).astype("float32")
    for factor in (1, 7):
        np.testing.assert_allclose(
            np.asarray(model(factor * x, training=True)), rounded(factor * x, np.abs(x).max()), atol=1e-5
        )


KINDS = {
    "conv": (QuantConv2D, L.Conv2D, {"filters": 4, "kernel_size": 3, "strides": 2, "padding": "valid"}, 3),
    "conv, relu": (QuantConv2D, L.Conv2D, {"filters": 4, "kernel_size": 1, "activation": "relu"}, 3),
    "depthwise": (QuantDepthwiseConv2D, L.DepthwiseConv2D, {"kernel_size": 3, "padding": "same"}, 2),
    "depthwise, strided": (QuantDepthwiseConv2D, L.DepthwiseConv2D, {"kernel_size": 3, "strides": 2}, 2),
    "transposed": (QuantConv2DTranspose, L.Conv2DTranspose, {"filters": 4, "kernel_size": 2, "strides": 2}, 2),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_quantized_convolution_is_the_stock_one_with_a_rounded_kernel(kind):
    quantized, stock, arguments, axis = KINDS[kind]
    rng = np.random.default_rng(1)
    models = [layer_in_a_model(each(name="c", **arguments)) for each in (quantized, stock)]
    kernel, bias = (rng.normal(size=w.shape).astype("float32") for w in models[1].get_weights())
    others = tuple(number for number in range(4) if number != axis)
    amax = np.abs(kernel).max(axis=others, keepdims=True)
    models[0].set_weights([kernel, bias])
    models[1].set_weights([rounded(kernel, amax), bias])
    x = rng.normal(size=(2, 5, 5, 3)).astype("float32")
    found, expected = (np.asarray(model(x)) for model in models)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.abs(found).max() > 0.1
    models[1].set_weights([kernel, bias])
    assert np.abs(found - np.asarray(models[1](x))).max() > 1e-3  # the rounding is there


def test_batch_normalisation_may_be_multiplied_in_before_or_after_rounding():
    """One range a channel: why nothing needs to be folded in training."""
    rng = np.random.default_rng(2)
    kernel, gain = rng.normal(size=(3, 3, 4, 8)), rng.normal(size=8) * 5
    amax = np.abs(kernel).max(axis=(0, 1, 2))
    folded = kernel * gain
    np.testing.assert_allclose(
        rounded(kernel, amax) * gain, rounded(folded, np.abs(folded).max(axis=(0, 1, 2))), atol=1e-9
    )


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_rounds_in_float32(policy):
    """What comes out are the codes of the float32 numbers, rounded once more to what multiplies: nothing before."""

    def once(x, amax):
        return np.asarray(ops.cast(ops.cast(rounded(x, amax), layer.compute_dtype), "float32"))

    x = np.random.default_rng(3).normal(size=(2, 5, 5, 3)).astype("float32")
    layer = FakeQuant(dtype=policy)
    found = ops.cast(layer_in_a_model(layer)(x, training=True), "float32")
    np.testing.assert_array_equal(np.asarray(found), once(x, np.abs(x).max()))
    keras.utils.set_random_seed(0)
    layer = QuantConv2D(4, 3, use_bias=False, dtype=policy)
    model = layer_in_a_model(layer)
    layer.convolution_op = lambda inputs, kernel: kernel  # shows what would be multiplied
    found, (kernel,) = model(x), layer.get_weights()
    assert keras.backend.standardize_dtype(found.dtype) == layer.compute_dtype
    assert kernel.dtype == np.float32
    expected = once(kernel, np.abs(kernel).max(axis=(0, 1, 2)))
    np.testing.assert_array_equal(np.asarray(ops.cast(found, "float32")), expected)

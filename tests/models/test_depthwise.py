"""Our depthwise convolution is the stock one, whatever it computes in."""

import keras
import numpy as np
import pytest

from ssd.models.depthwise import DepthwiseConv2D
from ssd.quantization.fake_quant import QuantDepthwiseConv2D


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("strides", [1, 2])
def test_outputs_are_those_of_the_stock_layer(policy, strides):
    x = np.random.default_rng(1).normal(size=(2, 9, 8, 5)).astype("float32")
    ours = DepthwiseConv2D(3, strides=strides, use_bias=False, dtype=policy)
    stock = keras.layers.DepthwiseConv2D(3, strides=strides, use_bias=False)
    found = ours(x)
    stock.build(x.shape)
    stock.set_weights(ours.get_weights())
    assert keras.backend.standardize_dtype(found.dtype) == ours.compute_dtype
    tolerance = 1e-5 if policy == "float32" else 0.05
    np.testing.assert_allclose(np.asarray(keras.ops.cast(found, "float32")), np.asarray(stock(x)), atol=tolerance)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="about a kernel of TensorFlow")
@pytest.mark.parametrize("kind", [DepthwiseConv2D, QuantDepthwiseConv2D])
def test_strided_ones_multiply_in_float32_on_a_cpu(kind, monkeypatch):
    monkeypatch.setattr("ssd.models.depthwise._on_cpu", lambda: True)
    seen, multiply = [], keras.ops.depthwise_conv

    def depthwise_conv(inputs, kernel, *args, **kwargs):
        seen.append((keras.backend.standardize_dtype(inputs.dtype), keras.backend.standardize_dtype(kernel.dtype)))
        return multiply(inputs, kernel, *args, **kwargs)

    monkeypatch.setattr(keras.ops, "depthwise_conv", depthwise_conv)
    for strides in (1, 2):
        layer = kind(3, strides=strides, use_bias=False, dtype="mixed_bfloat16")
        assert keras.backend.standardize_dtype(layer(np.ones((1, 9, 9, 2), "float32")).dtype) == "bfloat16"
    assert seen == [("bfloat16", "bfloat16"), ("float32", "float32")]

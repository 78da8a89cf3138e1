"""Our depthwise convolution is the stock one, whatever it computes in."""

import keras
import numpy as np
import pytest

from ssd.models.depthwise import DepthwiseConv2D


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

"""Multiply-accumulates by hand."""

import keras
import pytest

from ssd.models.macs import layer_macs


@pytest.mark.parametrize(
    ("layer", "macs"),
    [
        (lambda: keras.layers.Conv2D(7, 3, strides=2, padding="same"), 5 * 6 * 7 * 3 * 3 * 4),
        (lambda: keras.layers.Conv2D(8, (1, 3), padding="valid", groups=2), 10 * 10 * 8 * 3 * 2),
        (lambda: keras.layers.DepthwiseConv2D(3, padding="same"), 10 * 12 * 9 * 4),
        (lambda: keras.layers.Conv2DTranspose(6, 2, strides=2), 10 * 12 * 4 * 6 * 2 * 2),
        (lambda: keras.layers.Dense(5), 10 * 12 * 4 * 5),
        (lambda: keras.layers.BatchNormalization(), 0),
    ],
    ids=["strided", "groups", "depthwise", "transposed", "dense", "batch norm"],
)
def test_macs_by_hand(layer, macs):
    layer = layer()
    layer(keras.Input((10, 12, 4)))
    assert layer_macs(layer) == macs

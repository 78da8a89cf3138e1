"""Multiply-accumulates of a layer: what a network costs, whatever runs it."""

import keras
import numpy as np


def layer_macs(layer: keras.Layer) -> int:
    """Multiply-accumulates of one layer for one image, those with padding's zeros among them; 0 for other layers."""
    if isinstance(layer, keras.layers.Conv2DTranspose):
        return _places(layer.input) * _entries(layer.kernel)  # every input place meets the whole kernel
    if isinstance(layer, keras.layers.Conv2D | keras.layers.DepthwiseConv2D | keras.layers.Dense):
        return _places(layer.output) * _entries(layer.kernel)
    return 0


def _places(tensor) -> int:
    """Positions of a `(B, ..., C)` tensor: cells of an image."""
    return int(np.prod(tensor.shape[1:-1], dtype=np.int64))


def _entries(weight) -> int:
    return int(np.prod(weight.shape, dtype=np.int64))

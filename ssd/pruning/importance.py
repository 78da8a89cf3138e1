"""How much each channel of a group counts, and which ones stay: by the norms of their filters, as TAO chose them."""

from collections.abc import Sequence

import keras
import numpy as np

NORMALIZERS = ("max", "L2")
CRITERIA = ("union", "intersection", "arithmetic_mean", "geometric_mean")


def filter_norms(layer: keras.Layer) -> np.ndarray:
    """`(n,)` float64: the L2 norm of each output channel's part of the kernel; the bias does not count."""
    kernel = np.asarray(layer.get_weights()[0], np.float64)
    # A transposed kernel is (kh, kw, out, in), a depthwise one (kh, kw, channel, 1).
    transposed = isinstance(layer, (keras.layers.Conv2DTranspose, keras.layers.DepthwiseConv2D))
    axes = (0, 1, 3) if transposed else (0, 1, 2)
    return np.sqrt(np.square(kernel).sum(axis=axes))


def normalized(norms: np.ndarray, normalizer: str) -> np.ndarray:
    """ "max": the largest becomes 1. "L2": divided by the vector's length, times its number of entries."""
    largest = norms.max() if normalizer == "max" else np.sqrt(np.square(norms).sum()) / len(norms)
    return norms / largest if largest > 0 else norms


def merged(norms: Sequence[np.ndarray], criterion: str) -> np.ndarray:
    """One value per place of a group out of those of its members, `(members, n)`."""
    stacked = np.stack(norms)
    if criterion == "union":
        return stacked.max(axis=0)
    if criterion == "intersection":
        return stacked.min(axis=0)
    if criterion == "arithmetic_mean":
        return stacked.mean(axis=0)
    assert criterion == "geometric_mean", criterion
    with np.errstate(divide="ignore"):  # a norm of zero makes the mean zero
        return np.exp(np.log(stacked).mean(axis=0))


def selected(norms: np.ndarray, threshold: float, granularity: int, minimum: int) -> np.ndarray:
    """`(n,)` bool: which channels stay.

    Those above the threshold, at least `minimum`, their number rounded up to a multiple of `granularity`, all at most;
    among equals the first.
    """
    count = max(int((norms > threshold).sum()), min(minimum, len(norms)))
    count = min(-(-count // granularity) * granularity, len(norms))
    kept = np.zeros(len(norms), bool)
    kept[np.argsort(-norms, kind="stable")[:count]] = True
    return kept

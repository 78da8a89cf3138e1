"""The smaller network: the same configuration with fewer filters, and the weights of the channels that stay."""

from collections.abc import Sequence

import keras
import numpy as np

from ssd.models.widths import with_widths
from ssd.pruning.channel_groups import Channels

Layer = keras.layers
Keep = tuple[np.ndarray, np.ndarray]  # bool: which input channels of a layer stay, which output channels


def kept_channels(channels: Channels, kept: Sequence[np.ndarray]) -> dict[str, Keep]:
    """By layer with weights, which of its channels stay.

    Args:
        kept: `(n,)` bool for each of `channels.groups`.
    """
    alive = np.ones(channels.count, bool)
    for group, stays in zip(channels.groups, kept, strict=True):
        alive[group.ids] = stays
    return {name: (alive[channels.inputs[name]], alive[channels.outputs[name]]) for name in channels.inputs}


def prune(model: keras.Model, keeps: dict[str, Keep]) -> keras.Model:
    """A new network of the channels that stay; names, regularisers and what is frozen are as in `model`."""
    widths = {}
    for name, (_, given) in keeps.items():
        if isinstance(model.get_layer(name), Layer.Conv2D | Layer.Conv2DTranspose):
            widths[name] = int(given.sum())
    pruned = with_widths(model, widths)
    for name, (taken, given) in keeps.items():
        layer = model.get_layer(name)
        weights = [_cut(layer, weight, taken, given) for weight in layer.get_weights()]
        pruned.get_layer(name).set_weights(weights)
    return pruned


def parameters(model: keras.Model, keeps: dict[str, Keep]) -> int:
    """How many `prune` would leave, all weights counted."""
    total = 0
    for name, (taken, given) in keeps.items():
        layer, ins, outs = model.get_layer(name), int(taken.sum()), int(given.sum())
        for weight in layer.weights:
            sizes = [
                {"in": ins, "out": outs}.get(axis, size)
                for axis, size in zip(_axes(layer, len(weight.shape)), weight.shape, strict=True)
            ]
            total += int(np.prod(sizes, dtype=np.int64))
    return total


def _cut(layer: keras.Layer, weight: np.ndarray, taken: np.ndarray, given: np.ndarray) -> np.ndarray:
    for number, axis in enumerate(_axes(layer, weight.ndim)):
        if axis:
            weight = np.compress(taken if axis == "in" else given, weight, axis=number)
    return weight


def _axes(layer: keras.Layer, rank: int) -> tuple[str, ...]:
    """What each axis of a weight counts: "in" or "out" channels, or "" for neither."""
    if rank == 1:  # biases; scale, offset and statistics of a BN
        return ("out",)
    if isinstance(layer, Layer.DepthwiseConv2D):
        return ("", "", "out", "")
    if isinstance(layer, Layer.Conv2DTranspose):
        return ("", "", "out", "in")
    return ("", "", "in", "out")

"""Networks of `keras.applications`, as Keras saves them: legacy weights, legacy whole models, and `.weights.h5`."""

import dataclasses
import os
import re

import numpy as np

from ssd.errors import ModelError
from ssd.models.formats.hdf5 import layers_of
from ssd.models.formats.keras_networks import SOURCES
from ssd.models.formats.source import check_network, convert, identify
from ssd.models.formats.weight_file import CONVENTIONS, Convention, WeightFile
from ssd.spec.config import Network


def read(path: str | os.PathLike, network: Network) -> WeightFile:
    """The backbone of a Keras Applications network, with or without its classifier, or of a model built around one.

    Raises:
        ModelError: a damaged file, one that holds none of the known networks, or another one than the spec's.
    """
    layers = layers_of(path)
    source = identify(SOURCES, layers)
    if source is None:
        known = ", ".join(source.name.removeprefix("Keras Applications ") for source in SOURCES)
        shown = ", ".join(list(layers)[:3])
        raise ModelError(
            f"has the layer names of no known network ({shown}, ...)" if layers else "holds no weights",
            where=str(path),
            hint=f"known of Keras Applications: {known}",
        )
    check_network(source, network, path)
    assumed = "as Keras Applications' are"
    if source.arch == "efficientnet_b0":
        normalizations = [arrays for name, arrays in layers.items() if re.fullmatch(r"normalization(_\d+)?", name)]
        if normalizations:
            source, assumed = dataclasses.replace(source, convention=_convention(normalizations)), ""
        else:
            assumed = "since the file has no normalization layer"

    def read_layer(layer: str, _depthwise: bool) -> tuple[np.ndarray, ...]:
        return layers[layer]

    return dataclasses.replace(convert(source, layers, read_layer, path), assumed=assumed)


def _convention(normalizations: list[tuple[np.ndarray, ...]]) -> Convention | None:
    """What EfficientNet's own first layers do to RGB pixels: 1/255, then the file's Normalization.

    In the published weights the standard deviations stand where variances belong; Keras makes up for it by a layer
    that divides by their root once more, and such a layer has no weights to find. None where they make no sense.
    """
    if len(normalizations) != 1 or len(normalizations[0]) < 2 or normalizations[0][0].size != normalizations[0][1].size:
        return None
    mean, variance = (np.asarray(array, "float64").ravel() for array in normalizations[0][:2])
    std = np.sqrt(variance)
    if np.allclose(variance, CONVENTIONS["torch"].std, rtol=1e-3):
        std = variance
    if not np.isfinite(mean).all() or not (std > 0).all():
        return None
    order = "rgb" if len(mean) == 3 else "gray"
    return Convention(order, 1 / 255, tuple(map(float, mean)), tuple(map(float, std)))

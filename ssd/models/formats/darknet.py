"""Darknet's `.weights`: a header, then the bare float32 values of layer after layer, without names or shapes.

The layout is that of Darknet's own reader, `load_weights_upto` and `load_convolutional_weights` in its parser.c.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ssd.errors import ModelError
from ssd.models.backbones.darknet import STAGES_19, STAGES_53
from ssd.models.formats import topology
from ssd.models.formats.batch_norm import EPSILON
from ssd.models.formats.darknet_header import header_length
from ssd.models.formats.source import spec_name
from ssd.models.formats.weight_file import CONVENTIONS, WeightFile
from ssd.spec.config import Network

DARKNET_EPSILON = 1e-6  # Darknet divides by sqrt(variance) + this
CLASSIFIER = 1000 * 1024 + 1000  # of ImageNet, behind either backbone


@dataclass(frozen=True)
class Convolution:
    """One of Darknet's, always with BN: our name, kernel size, channels in and out."""

    name: str
    size: int
    inputs: int
    filters: int

    @property
    def values(self) -> int:
        return 4 * self.filters + self.size**2 * self.inputs * self.filters


def _darknet19():
    yield Convolution("conv1", 3, 3, 32)
    inputs = 32
    for stage, widths in enumerate(STAGES_19, start=1):
        for index, filters in enumerate(widths, start=1):
            yield Convolution(f"b{stage}_conv{index}", 3 if index % 2 else 1, inputs, filters)
            inputs = filters


def _darknet53():
    yield Convolution("conv1", 3, 3, 32)
    for stage, (filters, repeats) in enumerate(STAGES_53, start=1):
        yield Convolution(f"conv{stage + 1}", 3, filters // 2, filters)
        for unit in range(1, repeats + 1):
            yield Convolution(f"b{stage}_conv{unit}_1", 1, filters, filters // 2)
            yield Convolution(f"b{stage}_conv{unit}_2", 3, filters // 2, filters)


NETWORKS = {19: tuple(_darknet19()), 53: tuple(_darknet53())}
SIZES = {depth: sum(convolution.values for convolution in network) for depth, network in NETWORKS.items()}


def read(path: str | os.PathLike, network: Network) -> WeightFile:
    """The backbone of a classifier's or detector's `.weights`, or of a partial file such as darknet53.conv.74.

    Raises:
        ModelError: a damaged file, or one of another network than the spec's, as far as size and values can tell.
    """
    if network.arch != "darknet":
        raise ModelError(
            f"the file is in Darknet's format, the spec says {spec_name(network.arch, network.nlayers)}",
            where=str(path),
            hint='Darknet\'s .weights go into arch "darknet" with nlayers 19 or 53',
        )
    values = _values(path)
    needed = SIZES[network.nlayers]
    if (other := _depth_of(len(values))) not in (None, network.nlayers):
        raise ModelError(
            f"the file is a darknet{other} by its size, the spec says darknet{network.nlayers}", where=str(path)
        )
    if len(values) < needed:
        raise ModelError(
            f"has {len(values)} values, darknet{network.nlayers} needs {needed}: truncated, or of another network",
            where=str(path),
        )
    if not values[: NETWORKS[network.nlayers][0].values].any():
        raise ModelError(
            "the values of its first convolution are all zero: no trained network",
            where=str(path),
            hint="the file is damaged, or its download went wrong: fetch it again",
        )
    layers = {}
    factor = 1.0
    start = 0
    for convolution in NETWORKS[network.nlayers]:
        part = values[start : start + convolution.values]
        start += convolution.values
        layers[convolution.name], layers[f"{convolution.name}_bn"], gain = _layer(convolution, part, path)
        factor = max(factor, gain)
    rest = len(values) - needed
    notes = topology.LEAKY
    if factor > 100:
        notes += (f"channels that hardly vary: the larger epsilon of our BN raises a gamma {factor:.0f} times",)
    return WeightFile(
        kind=f"Darknet darknet{network.nlayers} weights",
        layers=layers,
        convention=CONVENTIONS["darknet"],
        unused=(f"{rest} values behind the backbone ({_rest(rest)})",) if rest else (),
        notes=notes,
        assumed="as Darknet's are",
    )


def _values(path) -> np.ndarray:
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ModelError(f"cannot be read: {error.strerror}", where=str(path)) from error
    header = header_length(data[:20])
    if header is None:
        raise ModelError("does not start as Darknet's .weights do", where=str(path))
    if (len(data) - header) % 4:
        raise ModelError(
            f"has {len(data)} bytes: not a whole number of values behind the header",
            where=str(path),
            hint="the file is truncated: fetch it again",
        )
    return np.frombuffer(data, "<f4", offset=header)


def _depth_of(count: int) -> int | None:
    """The network that exactly so many values make, with or without ImageNet's classifier."""
    return next((depth for depth, size in SIZES.items() if count in (size, size + CLASSIFIER)), None)


def _layer(convolution: Convolution, values: np.ndarray, path):
    """Kernel HWIO, BN as gamma, beta, mean, variance; and the largest factor that a gamma grew by.

    Darknet keeps beta, gamma, mean, variance, then the kernel as OIHW.
    """
    filters = convolution.filters
    beta, gamma, mean, variance = values[: 4 * filters].reshape(4, filters).astype("float64")
    if not np.isfinite(values).all() or np.any(variance < 0):
        raise ModelError(
            f"{convolution.name} would have values that are no weights (NaN, or a negative variance)",
            where=str(path),
            hint="the file is damaged, or of another network: names and shapes are not in it",
        )
    factor = np.sqrt(variance + EPSILON) / (np.sqrt(variance) + DARKNET_EPSILON)
    kernel = values[4 * filters :].reshape(filters, convolution.inputs, convolution.size, convolution.size)
    norm = tuple(array.astype("float32") for array in (gamma * factor, beta, mean, variance))
    return (np.ascontiguousarray(kernel.transpose(2, 3, 1, 0)),), norm, factor.max()


def _rest(count: int) -> str:
    return "the classifier" if count == CLASSIFIER else "a head or further layers"

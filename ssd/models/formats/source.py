"""A public network in terms of ours: which of its layers goes where, and how its file is told from another's."""

import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

import numpy as np

from ssd.errors import ModelError
from ssd.models.formats.batch_norm import neutral, with_bias, with_epsilon
from ssd.models.formats.weight_file import Convention, WeightFile
from ssd.spec.config import Network

# Of the layers that file and network have between them, how many must be common to name the file after the network:
# fine-tuned heads come on top, and another depth of the family shares at most 0.7.
ALIKE = 0.8


@dataclass(frozen=True)
class Row:
    """A convolution of ours and the source's; with the BN behind it where we have one.

    Args:
        conv: our name.
        source: theirs.
        bn: our BN; None where nothing but a bias follows.
        source_bn: theirs; None for a network without BN: ours becomes neutral, but for the bias.
        depthwise: the kernel has one filter a channel.
        size: kernel size of ours where theirs is smaller; theirs goes into the middle.
    """

    conv: str
    source: str
    bn: str | None = None
    source_bn: str | None = None
    depthwise: bool = False
    size: int | None = None


@dataclass(frozen=True)
class Identity:
    """A projection of ours where the public network adds the input itself: `like` has as many channels."""

    conv: str
    bn: str | None
    like: str


@dataclass(frozen=True)
class Source:
    """A public network.

    Args:
        name: for messages: "torchvision resnet18".
        arch: the spec's `arch` that it serves, and `nlayers`.
        rows: its layers in ours; the first one sees the pixels.
        stem: size and filters of the first one's kernel.
        probe: a layer of it, and the shape of its kernel, HWIO: wider and grouped variants share names, not shapes.
        convention: what it expects of pixels; None where the file does not tell.
        epsilon: of its BN.
        ignored: pattern of its layers that have no place here.
        notes: what differs from our topology.
    """

    name: str
    arch: str
    nlayers: int | None
    rows: tuple[Row | Identity, ...]
    stem: tuple[int, int]
    probe: tuple[str, tuple[int, int, int, int]]
    convention: Convention | None
    epsilon: float
    ignored: str
    notes: tuple[str, ...] = ()

    @property
    def layers(self) -> set[str]:
        """All its layer names that have a place here."""
        rows = [row for row in self.rows if isinstance(row, Row)]
        return {row.source for row in rows} | {row.source_bn for row in rows if row.source_bn}


def identify(sources: Iterable[Source], names: Collection[str]) -> Source | None:
    """The network whose layer names a file has; None when it resembles none."""
    best = max(sources, key=lambda source: _likeness(source, names))
    return best if _likeness(best, names) >= ALIKE else None


def _likeness(source: Source, names: Collection[str]) -> float:
    theirs = {name for name in names if not re.match(source.ignored, name)} | (source.layers & set(names))
    return len(source.layers & theirs) / len(source.layers | theirs)


def check_network(source: Source, network: Network, path) -> None:
    """Raises ModelError when the file is of another network than the spec's."""
    if (source.arch, source.nlayers) != (network.arch, network.nlayers):
        raise ModelError(
            f"the file is a {source.name}, the spec says {spec_name(network.arch, network.nlayers)}",
            where=str(path),
            hint="change arch and nlayers of the spec, or take another file",
        )


def spec_name(arch: str, nlayers: int | None) -> str:
    return f"{arch}{nlayers or ''}"


def convert(
    source: Source, names: Collection[str], read: Callable[[str, bool], tuple[np.ndarray, ...]], path
) -> WeightFile:
    """The weights of a file that holds `source`.

    Args:
        names: layers of the file.
        read: (name, depthwise) -> a layer's arrays: HWIO kernel and perhaps bias, or the four of a BN.

    Raises:
        ModelError: arrays that cannot be what their names say, or a variant of the network with another stem, width
            or units.
    """
    check_variant(source, names, read, path)
    layers, reasons = {}, {}
    for row in source.rows:
        if isinstance(row, Identity):
            if row.like in layers:
                channels = layers[row.like][0].shape[-1]
                layers[row.conv] = (np.eye(channels, dtype="float32")[None, None],)
                if row.bn:
                    layers[row.bn] = neutral(channels)
        elif row.source not in names:
            reasons |= {ours: f"the file has no {row.source}" for ours in (row.conv, row.bn) if ours}
        else:
            _convert_row(row, source, names, read, path, layers, reasons)
    stem = layers.get(source.rows[0].conv)
    # Trained by somebody on pictures of other channels: not for what the public one expects of pixels.
    usual = stem is None or source.convention is None or stem[0].shape[2] == len(source.convention.mean)
    return WeightFile(
        kind=source.name,
        layers=layers,
        convention=source.convention if usual else None,
        unused=tuple(name for name in names if name not in source.layers),
        notes=source.notes + _left_out(source, names),
        reasons=reasons,
    )


def check_variant(source: Source, names: Collection[str], read, path) -> None:
    """Raises ModelError for a file with most of the layer names of `source` that is of another network all the same."""
    probe, wanted = source.probe
    if probe in names and (found := read(probe, False)[0].shape) != wanted:
        raise _variant(source, f"{probe} has a kernel of {_shape(found)}, not {_shape(wanted)}: wider or grouped", path)
    stem, (size, filters) = source.rows[0].source, source.stem
    if stem not in names:
        raise _variant(source, f"with another stem: the file has no {stem}", path)
    found = read(stem, False)[0].shape
    # The channels are free: somebody may have trained on gray pictures. What is no kernel is told later.
    if len(found) == 4 and (*found[:2], found[3]) != (size, size, filters):
        raise _variant(
            source, f"with another stem: {stem} is {_shape(found)}, not {_shape((size, size, 3, filters))}", path
        )
    if probe not in names:
        raise _variant(source, f"with other units: the file has no {probe}", path)
    extra = _extra(source, names)
    for layer in (row.source for row in source.rows if isinstance(row, Row)):
        unit = layer.rpartition(".")[0]
        if layer not in names and unit and (instead := [name for name in extra if name.startswith(f"{unit}.")]):
            raise _variant(source, f"with another {unit}: {instead[0]} stands there, {layer} does not", path)


def _variant(source: Source, how: str, path) -> ModelError:
    return ModelError(
        f"a variant of {source.name}, {how}", where=str(path), hint="bring the weights of the public network itself"
    )


def _extra(source: Source, names: Collection[str]) -> list[str]:
    """Layers of the file that stand among those of the network, but are none of its own."""
    places = {_place(name) for name in source.layers}
    others = [name for name in names if name not in source.layers and not re.match(source.ignored, name)]
    return [name for name in others if _place(name) in places]


def _place(name: str) -> str:
    """The outermost module of a layer: layer1 of `layer1.0.conv1`, conv2 of `conv2_block1_1_conv`."""
    return re.split(r"[._]", name, maxsplit=1)[0]


def _left_out(source: Source, names: Collection[str]) -> tuple[str, ...]:
    extra = _extra(source, names)
    if not extra:
        return ()
    shown = ", ".join(extra[:3]) + (f" and {len(extra) - 3} more" if len(extra) > 3 else "")
    return (
        f"a variant of {source.name}: {shown} stand inside the file's backbone (attention, say) and are left out here: "
        "the same kernels, not the same function",
    )


def _convert_row(row: Row, source: Source, names, read, path, layers: dict, reasons: dict) -> None:
    kernel, *biases = read(row.source, row.depthwise)
    filters = kernel.shape[2 if row.depthwise else -1] if kernel.ndim == 4 else 0
    if not filters or len(biases) > 1 or (row.depthwise and kernel.shape[3] != 1):
        raise ModelError(f"{row.source} has the shape {kernel.shape}: no kernel of a convolution", where=str(path))
    check(row.source, [kernel, *biases], path, filters)
    if row.size and kernel.shape[0] < row.size:
        before = (row.size - kernel.shape[0]) // 2
        after = row.size - kernel.shape[0] - before
        kernel = np.pad(kernel, [(before, after)] * 2 + [(0, 0)] * 2)
    if row.bn is None:
        layers[row.conv] = (kernel, *biases)
        return
    layers[row.conv] = (kernel,)
    if row.source_bn in names:
        arrays = read(row.source_bn, False)
        if len(arrays) != 4:
            raise ModelError(f"{row.source_bn} has {len(arrays)} tensors, batch normalisation has 4", where=str(path))
        check(row.source_bn, arrays, path, filters)
        if np.any(arrays[3] < 0):
            raise ModelError(f"{row.source_bn} has a negative variance: the file is damaged", where=str(path))
        arrays = with_epsilon(*arrays, source.epsilon)
    elif row.source_bn and not biases:
        reasons[row.bn] = f"the file has no {row.source_bn}"
        return
    else:
        # Either the network has no BN, or somebody folded it into the convolutions.
        arrays = neutral(filters)
    layers[row.bn] = with_bias(arrays, biases[0]) if biases else arrays


def check(name: str, arrays, path, filters: int) -> None:
    """Raises ModelError unless all values are finite and all vectors have a value a filter."""
    for array in arrays:
        if array.ndim == 1 and len(array) != filters:
            raise ModelError(f"{name} has {len(array)} values for {filters} filters", where=str(path))
        if array.ndim not in (1, 4):
            raise ModelError(f"{name} has the shape {array.shape}: neither kernel nor vector", where=str(path))
        if not np.isfinite(array).all():
            raise ModelError(f"{name} holds NaN or infinite values", where=str(path), hint="the file is damaged")


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))

"""The model table: what each part of a detector costs, and which anchors stand on its feature maps."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import keras
import numpy as np

from ssd.inspection.coverage import anchor_shapes
from ssd.inspection.memory import Memory
from ssd.models.backbones import backbone
from ssd.models.detector import feature_map_sizes
from ssd.models.macs import layer_macs
from ssd.models.running_statistics import RANGE_SUFFIX
from ssd.spec.config import Network
from ssd.tables import count, indented, size, table

# Prefix of layer names -> part; what fits none and is in no freeze block belongs to the backbone's wiring.
PARTS = (
    ("ssd_expand", "expansion"),
    ("ssd_shrink", "DSSD"),
    ("dssd_", "DSSD"),
    ("ssd_mpred", "prediction module"),
    ("ssd_conf", "heads"),
    ("ssd_loc", "heads"),
)
RANGES = "ranges of quantization"


@dataclass(frozen=True)
class Part:
    """A part of the network. `macs`: multiply-accumulates for one image; `layers`: those with weights."""

    name: str
    layers: int
    parameters: int
    trainable: int
    macs: int
    output: tuple[int, int, int] | None  # height, width, channels of its last layer; None for the heads


@dataclass(frozen=True)
class FeatureMap:
    """A feature map and its anchors, sizes in px of the network input."""

    height: int
    width: int
    channels: int
    stride: tuple[float, float]  # vertical, horizontal px between cells
    anchors: int
    sizes: tuple[tuple[float, float], ...]  # width, height of the anchors of a cell


@dataclass(frozen=True)
class ModelReport:
    """`parts` from the input to the heads."""

    name: str
    input_shape: tuple[int, int, int]
    parts: tuple[Part, ...]
    maps: tuple[FeatureMap, ...]

    @property
    def parameters(self) -> int:
        return sum(part.parameters for part in self.parts)

    @property
    def trainable(self) -> int:
        return sum(part.trainable for part in self.parts)

    @property
    def macs(self) -> int:
        return sum(part.macs for part in self.parts)

    @property
    def anchors(self) -> int:
        return sum(each.anchors for each in self.maps)


def inspect_model(model: keras.Model, network: Network) -> ModelReport:
    """Reads a built detector; freezing has been applied."""
    family = backbone(network.arch, network.nlayers)
    layers: dict[str, list] = {}
    for layer in model.layers:
        name = _part(layer.name, family.block_of(layer.name))
        if name is not None and layer.weights:
            layers.setdefault(name, []).append(layer)
    height, width, channels = model.input_shape[1:]
    shapes = anchor_shapes(network, (height, width))
    maps = []
    for index, (rows, columns) in enumerate(feature_map_sizes(model)):
        sizes = tuple((shape.width, shape.height) for shape in shapes if shape.map == index)
        depth = int(model.get_layer(f"ssd_loc_{index}").input.shape[-1])
        stride = (height / rows, width / columns)
        maps.append(FeatureMap(rows, columns, depth, stride, rows * columns * len(sizes), sizes))
    parts = tuple(_summed(name, layers[name]) for name in sorted(layers, key=_rank))
    return ModelReport(model.name, (height, width, channels), parts, tuple(maps))


def _part(name: str, block: int | None) -> str | None:
    if name.endswith(RANGE_SUFFIX):
        return RANGES
    if block is not None:
        return f"backbone block {block}"
    return next((part for prefix, part in PARTS if name.startswith(prefix)), "backbone, in no block")


def _rank(part: str) -> tuple[int, int]:
    """Where a part stands in the table."""
    if part.startswith("backbone block "):
        return 0, int(part.split()[-1])
    order = ["backbone, in no block", "expansion", "DSSD", "prediction module", "heads", RANGES]
    return 1 + order.index(part), 0


def _summed(name: str, layers: Sequence[keras.Layer]) -> Part:
    last = layers[-1].output.shape[1:]
    return Part(
        name=name,
        layers=len(layers),
        parameters=sum(_entries(weight) for layer in layers for weight in layer.weights),
        trainable=sum(_entries(weight) for layer in layers for weight in layer.trainable_weights),
        macs=sum(map(layer_macs, layers)),
        output=None if name in ("heads", RANGES) else tuple(last),
    )


def _entries(weight) -> int:
    return int(np.prod(weight.shape, dtype=np.int64))


def text(report: ModelReport, memory: Memory) -> str:
    """The report for the terminal."""
    height, width, channels = report.input_shape
    rows = []
    for part in report.parts:
        output = ""
        if part.output:
            rows_out, columns_out, depth = part.output
            output = f"{columns_out}x{rows_out}x{depth}"
        frozen = part.parameters - part.trainable
        cells = (str(part.layers), f"{part.parameters:,}", f"{frozen:,}", f"{part.macs / 1e6:,.1f}", output)
        rows.append((part.name, *cells))
    frozen = report.parameters - report.trainable
    totals = (str(sum(part.layers for part in report.parts)), f"{report.parameters:,}", f"{frozen:,}")
    rows.append(("total", *totals, f"{report.macs / 1e6:,.1f}", ""))
    header = ("part", "layers", "parameters", "not trained", "M MACs", "output")
    lines = [f"Model {report.name}, input {width}x{height}x{channels}", indented(table(header, rows))]
    lines.append("  layers: with weights; not trained: frozen, and the statistics of batch normalisation")
    rows = []
    for index, each in enumerate(report.maps):
        sizes = ", ".join(size(*pair) for pair in each.sizes)
        cells = f"{each.width}x{each.height}x{each.channels}"
        rows.append((str(index), cells, size(*each.stride[::-1]), str(len(each.sizes)), str(each.anchors), sizes))
    header = ("map", "cells", "every px", "a cell", "anchors", "anchor sizes, px")
    lines += ["", indented(table(header, rows)), f"  {report.anchors:,} anchors", "", indented(memory.text())]
    lines.append(f"  {count(report.trainable)} trainable parameters, {count(report.macs)} MACs an image")
    return "\n".join(lines)


def as_json(report: ModelReport, memory: Memory) -> dict:
    """What the text says, for programs."""
    totals = {name: getattr(report, name) for name in ("parameters", "trainable", "macs", "anchors")}
    return {**asdict(report), **totals, "memory_bytes": {**asdict(memory), "total": memory.total}}

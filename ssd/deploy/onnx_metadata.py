"""What an exported graph says of itself: enough to evaluate and use it without a spec beside it."""

import hashlib
import json
from dataclasses import dataclass

import keras
import numpy as np
import onnx

import ssd
from ssd.errors import ModelError

KEY = "ssd"  # of the one metadata entry


@dataclass(frozen=True)
class Metadata:
    """`nms`: "none", "standard" or "efficient_nms"; `pixels`: the input is uint8 RGB, preprocessing is in the graph."""

    spec: str  # resolved, prototxt
    classes: tuple[str, ...]
    mean: tuple[float, ...]  # B, G, R or gray, subtracted from 0..255
    input_size: tuple[int, int, int]  # height, width, channels
    data_type: str
    nms: str
    pixels: bool
    spec_sha256: str
    anchors_sha256: str
    network_sha256: str  # of the weights that were exported
    versions: dict[str, str]


def describe(model: keras.Model, spec, anchors: np.ndarray, *, data_type: str, nms: str, pixels: bool) -> Metadata:
    """The metadata of an export of `model`, a float network, with `spec`."""
    return Metadata(
        spec=spec.text,
        classes=spec.classes,
        mean=spec.augmentation.mean,
        input_size=tuple(model.input_shape[1:]),
        data_type=data_type,
        nms=nms,
        pixels=pixels,
        spec_sha256=hashlib.sha256(spec.text.encode()).hexdigest(),
        anchors_sha256=hashlib.sha256(np.ascontiguousarray(anchors).tobytes()).hexdigest(),
        network_sha256=network_hash(model),
        versions={"ssd": ssd.__version__, "keras": keras.__version__, "onnx": onnx.__version__},
    )


def network_hash(model: keras.Model) -> str:
    """SHA-256 of a network's weights."""
    weights = hashlib.sha256()
    for weight in model.get_weights():
        weights.update(np.ascontiguousarray(weight).tobytes())
    return weights.hexdigest()


def write(proto: onnx.ModelProto, metadata: Metadata) -> None:
    """Puts it into the graph's metadata, as JSON under one key."""
    del proto.metadata_props[:]
    proto.metadata_props.add(key=KEY, value=json.dumps(vars(metadata)))
    proto.producer_name, proto.producer_version = "ssd", ssd.__version__


def of_graph(proto: onnx.ModelProto, path: str) -> Metadata:
    """The metadata of a graph in memory. Raises as `parse`."""
    return parse({entry.key: entry.value for entry in proto.metadata_props}, path)


def parse(properties: dict[str, str], path: str) -> Metadata:
    """The metadata of a graph.

    Raises:
        ModelError: none, or damaged.
    """
    if KEY not in properties:
        raise ModelError(
            "an ONNX graph without this toolkit's metadata: its classes, input and anchors are unknown",
            where=path,
            hint="use a file that `ssd export` wrote",
        )
    try:
        values = json.loads(properties[KEY])
        for name in ("classes", "mean", "input_size"):
            values[name] = tuple(values[name])
        return Metadata(**values)
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"its metadata are unreadable: {error}", where=path) from error

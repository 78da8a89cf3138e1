"""State dicts of torchvision and timm classifiers, as `.safetensors`. Nothing here needs PyTorch."""

import dataclasses
import os
import re
from pathlib import Path

import numpy as np
import safetensors

from ssd.errors import ModelError
from ssd.models.formats.source import check_network, convert, identify
from ssd.models.formats.torch_networks import SOURCES
from ssd.models.formats.weight_file import WeightFile
from ssd.spec.config import Network

FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}  # NumPy has no bfloat16: its bits
# What training wrappers put in front of every name.
PREFIX = re.compile(r"^((module|model|_orig_mod|backbone|encoder|net|network|state_dict|body|trunk)\.)+")
TENSORS = ("weight", "bias", "running_mean", "running_var")  # a layer's tensors, in our order
DETECTOR = re.compile(
    r"(^|\.)(loc|conf|loc_layers|cl_layers|classification_head\w*|regression_head\w*|rpn|roi_heads)\."
)


def read(path: str | os.PathLike, network: Network) -> WeightFile:
    """The backbone of a classifier's state dict.

    Raises:
        ModelError: a damaged file, one that holds none of the known networks, or another one than the spec's.
    """
    tensors = read_tensors(path)
    layers: dict[str, dict[str, np.ndarray]] = {}
    for name, tensor in tensors.items():
        layer, _, part = name.rpartition(".")
        if part != "num_batches_tracked":
            layers.setdefault(layer, {})[part] = tensor
    source = identify(SOURCES, layers)
    if source is None:
        raise _unknown(list(tensors), path)
    check_network(source, network, path)

    def read_layer(layer: str, depthwise: bool) -> tuple[np.ndarray, ...]:
        parts = layers[layer]
        if "weight" not in parts or not set(parts) <= set(TENSORS):
            raise ModelError(
                f"{layer} has the tensors {', '.join(parts)}, allowed: {', '.join(TENSORS)}",
                where=str(path),
                hint="quantised and parametrised modules are not read: save the plain float state dict",
            )
        arrays = [parts[part] for part in TENSORS if part in parts]
        if arrays[0].ndim == 4:
            # OIHW to HWIO; a depthwise kernel is (C,1,kh,kw) there and (kh,kw,C,1) here.
            arrays[0] = np.ascontiguousarray(arrays[0].transpose((2, 3, 0, 1) if depthwise else (2, 3, 1, 0)))
        return tuple(arrays)

    collection = source.name.rpartition(" ")[0]
    return dataclasses.replace(convert(source, layers, read_layer, path), assumed=f"as {collection}'s are")


def read_tensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The floating-point tensors of a `.safetensors` file as float32, wrappers' prefixes taken off their names.

    Raises:
        ModelError: no such file, a damaged one, or weights that are not floating-point.
    """
    try:
        found = safetensors.deserialize(Path(path).read_bytes())
    except OSError as error:
        raise ModelError(f"cannot be read: {error.strerror}", where=str(path)) from error
    except (safetensors.SafetensorError, ValueError) as error:
        raise ModelError(
            f"is no whole .safetensors file: {error}", where=str(path), hint="fetch or convert it again"
        ) from error
    tensors = {}
    for stored, tensor in sorted(found, key=lambda item: item[0]):
        name = PREFIX.sub("", stored)
        if tensor["dtype"] not in FLOATS:
            if name.endswith(".weight"):
                raise ModelError(
                    f"{stored} is stored as {tensor['dtype']}, allowed: {', '.join(FLOATS)}",
                    where=str(path),
                    hint="a quantised model cannot be fine-tuned: bring the float one",
                )
            continue
        if name in tensors:
            raise ModelError(
                f"two tensors are called {name} once {stored} has lost its prefix: two networks in one file",
                where=str(path),
                hint="save the backbone's state dict alone",
            )
        tensors[name] = _float32(tensor["data"], tensor["dtype"]).reshape(tensor["shape"])
    return tensors


def _float32(data: bytes, dtype: str) -> np.ndarray:
    array = np.frombuffer(data, FLOATS[dtype])
    if dtype == "BF16":  # the upper half of a float32
        return (array.astype("uint32") << 16).view("float32")
    return array.astype("float32")


def _unknown(names: list[str], path) -> ModelError:
    known = ", ".join(source.name for source in SOURCES)
    if any(DETECTOR.search(name) for name in names):
        text = "is the state dict of a detector; only classifiers' backbones are read"
    elif not names:
        text = "holds no tensors"
    else:
        text = f"has the layer names of no known network ({', '.join(names[:3])}, ...)"
    return ModelError(text, where=str(path), hint=f"known: {known}")

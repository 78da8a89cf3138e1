"""The inside of TAO's HDF5 files, which Keras 2 wrote: a group for each layer, names in attributes.

Whatever h5py raises over a damaged one becomes a ModelError.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from ssd.errors import ModelError
from ssd.models.formats.finite import as_float32

# A damaged or hostile header can claim any size; no tensor of a detector comes near this many values.
MOST_VALUES = 1 << 28


@contextlib.contextmanager
def opened(path: str | os.PathLike) -> Iterator[h5py.File]:
    """An HDF5 file for reading.

    Raises:
        ModelError: it is damaged, at once or when something in it is read.
    """
    path = Path(path).expanduser()
    try:
        with h5py.File(path, "r") as file:
            yield file
    except ModelError as error:
        raise error if error.where else ModelError(error.message, where=str(path), hint=error.hint) from error
    # h5py raises every kind there is over a damaged file.
    except (
        OSError,
        KeyError,
        ValueError,
        TypeError,
        RuntimeError,
        AttributeError,
        MemoryError,
        RecursionError,
    ) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"damaged: {reason}", where=str(path), hint="was its copying or downloading cut short?"
        ) from error


def weights_group(file: h5py.File) -> h5py.Group:
    """The layers' groups: of a whole model, or of a file of weights only."""
    return _member(file, "model_weights") if "model_weights" in file else file


def model_config(file: h5py.File) -> dict | None:
    """The stored network; None in a file of weights only."""
    text = file.attrs.get("model_config")
    if text is None:
        return None
    config = json.loads(_text(text))
    if not isinstance(config, dict):
        raise ValueError("model_config is no network")
    return config


def layer_names(group: h5py.Group) -> list[str]:
    """Names of the layers in order, of those without weights too."""
    return _names(group, "layer_names")


def has_layer_names(group: h5py.Group) -> bool:
    """Whether Keras 2 wrote it; its later files name their layers elsewhere."""
    return "layer_names" in group.attrs or "layer_names0" in group.attrs


def tensor_names(group: h5py.Group, layer: str) -> list[str]:
    """Names of a layer's tensors, in Keras' order; names need not repeat the layer's."""
    return _names(_member(group, layer), "weight_names")


def tensors(group: h5py.Group, layer: str) -> tuple[np.ndarray, ...]:
    """A layer's tensors in Keras' order, float32. Raises ModelError where one is no number or not finite."""
    return tuple(_tensor(group, layer, name) for name in tensor_names(group, layer))


def _tensor(group: h5py.Group, layer: str, name: str) -> np.ndarray:
    found = _member(_member(group, layer), name)
    if not isinstance(found, h5py.Dataset):
        raise ValueError(f"{layer}/{name} is no tensor")
    if found.external or found.is_virtual:
        raise ModelError(f"tensor {name} of layer {layer} lies in another file; it is not followed")
    if found.size is None or found.size > MOST_VALUES:
        raise ModelError(f"damaged: tensor {name} of layer {layer} claims the shape {found.shape}")
    return as_float32(found[()], f"{name} of layer {layer}")


def _member(group: h5py.Group, path: str):
    """What lies at `path` in this very file; a link to another file is not followed."""
    for name in path.strip("/").split("/"):
        if isinstance(group.get(name, getlink=True), h5py.ExternalLink):
            raise ModelError(f"{path} lies in another file, which is not opened")
        group = group[name]
    return group


def _names(group: h5py.Group, attribute: str) -> list[str]:
    """A list of names; Keras splits one that HDF5 finds too long into `attribute0`, `attribute1` and so on."""
    if attribute in group.attrs:
        return [_text(name) for name in group.attrs[attribute]]
    if f"{attribute}0" not in group.attrs:
        raise ValueError(f"{group.name} has no {attribute}")
    found, part = [], 0
    while f"{attribute}{part}" in group.attrs:
        found += [_text(name) for name in group.attrs[f"{attribute}{part}"]]
        part += 1
    return found


def _text(value) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)

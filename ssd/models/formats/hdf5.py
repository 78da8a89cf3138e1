"""The weights of an HDF5 file that Keras wrote, by layer name. All that Keras has written since 2015."""

import os

import h5py
import numpy as np

from ssd.errors import ModelError

LARGEST = 2**30  # bytes of a tensor: a damaged file may claim any shape


def layers_of(path: str | os.PathLike) -> dict[str, tuple[np.ndarray, ...]]:
    """Layers with weights, in the file's order, each with its arrays in Keras' order. Nested models are flattened.

    Raises:
        ModelError: no such file, a damaged one, or one without layer names.
    """
    try:
        with h5py.File(path, "r") as file:
            root = file["model_weights"] if "model_weights" in file else file
            return _legacy(root) if _strings(root, "layer_names") else _current(file, path)
    except FileNotFoundError as error:
        raise ModelError("does not exist", where=str(path)) from error
    except (OSError, KeyError, ValueError, RuntimeError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ModelError(f"is no whole HDF5 file of Keras: {reason}", where=str(path), hint="fetch it again") from error


def model_config(file: h5py.File) -> str:
    """The configuration of a whole model, as JSON text; empty where there are weights alone."""
    config = file.attrs.get("model_config", "")
    return config.decode("utf-8", "replace") if isinstance(config, bytes) else str(config)


def _legacy(root: h5py.Group) -> dict[str, tuple[np.ndarray, ...]]:
    """A group per layer; its attribute `weight_names` gives the order.

    The group of a nested model holds the weights of many layers, each called `<layer>/<weight>`; elsewhere that
    layer's name may carry a number that a session added, and the group's name counts.
    """
    layers: dict[str, list[np.ndarray]] = {}
    for group_name in _strings(root, "layer_names"):
        group = root[group_name]
        names = _strings(group, "weight_names")
        owners = [name.split("/")[-2] if "/" in name else group_name for name in names]
        nested = len(set(owners)) > 1
        for owner, name in zip(owners, names, strict=True):
            layers.setdefault(owner if nested else group_name, []).append(_array(group, name))
    return {name: tuple(arrays) for name, arrays in layers.items()}


def _current(file: h5py.File, path) -> dict[str, tuple[np.ndarray, ...]]:
    """Keras 3's `.weights.h5`: groups `vars` called by class and number, with the layer's name as an attribute."""
    groups = []
    file.visititems(lambda name, item: groups.append(item) if _is_variables(name, item) else None)
    groups = [group for group in groups if not group.name.startswith("/optimizer")]
    if groups and not any("name" in group.attrs for group in groups):
        raise ModelError(
            "keeps no layer names, as .weights.h5 files of older Keras 3 do not",
            where=str(path),
            hint='load it into its model with that Keras and save the model as a whole: model.save("model.h5")',
        )
    return {
        _text(group.attrs["name"]): tuple(_array(group, key) for key in sorted(group, key=int))
        for group in groups
        if "name" in group.attrs
    }


def _is_variables(name: str, item) -> bool:
    return isinstance(item, h5py.Group) and name.split("/")[-1] == "vars" and len(item) > 0


def _array(group: h5py.Group, name: str) -> np.ndarray:
    dataset = group[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.external or dataset.is_virtual:
        raise ValueError(f"{dataset.name} is no plain dataset")
    if dataset.nbytes > LARGEST:
        raise ValueError(f"{dataset.name} claims {dataset.nbytes} bytes")
    if dataset.attrs.get("dtype") == "bfloat16":
        # Stored as two opaque bytes: the upper half of a float32.
        return (dataset[()].view("uint16").astype("uint32") << 16).view("float32")
    if dataset.dtype.kind not in "fiu":
        raise ValueError(f"{dataset.name} holds {dataset.dtype}, no numbers")
    return np.asarray(dataset[()], "float32")


def _strings(group: h5py.Group, name: str) -> list[str]:
    """An attribute's list of names, bytes or text, split over `name0`, `name1`, ... where it was too long for one."""
    if name in group.attrs:
        return [_text(item) for item in np.atleast_1d(group.attrs[name])]
    found = []
    while f"{name}{len(found)}" in group.attrs:
        found.append([_text(item) for item in np.atleast_1d(group.attrs[f"{name}{len(found)}"])])
    return [item for part in found for item in part]


def _text(item) -> str:
    return item.decode() if isinstance(item, bytes) else str(item)

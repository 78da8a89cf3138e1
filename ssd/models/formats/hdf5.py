"""The weights of an HDF5 file that Keras wrote, by layer name: old and new layout, models inside of models."""

import os

import h5py
import numpy as np

from ssd.errors import ModelError
from ssd.models.formats import tao_groups as groups

MOST_VALUES = 1 << 28  # of a tensor: a damaged file may claim any shape


def layers_of(path: str | os.PathLike) -> dict[str, tuple[np.ndarray, ...]]:
    """Layers with weights, in the file's order, each with its arrays in Keras' order. Nested models are flattened.

    Raises:
        ModelError: a damaged file, or one without layer names.
    """
    with groups.opened(path) as file:
        root = groups.weights_group(file)
        return _named(root) if groups.has_layer_names(root) else _numbered(file)


def _named(root: h5py.Group) -> dict[str, tuple[np.ndarray, ...]]:
    """A group per layer.

    The group of a nested model holds the weights of many layers, each called `<layer>/<weight>`; elsewhere that
    layer's name may carry a number that a session added, and the group's name counts.
    """
    layers: dict[str, list[np.ndarray]] = {}
    for group in groups.layer_names(root):
        names = groups.tensor_names(root, group)
        owners = [name.split("/")[-2] if "/" in name else group for name in names]
        nested = len(set(owners)) > 1
        for owner, name in zip(owners, names, strict=True):
            layers.setdefault(owner if nested else group, []).append(_array(root[group], name))
    return {name: tuple(arrays) for name, arrays in layers.items()}


def _numbered(file: h5py.File) -> dict[str, tuple[np.ndarray, ...]]:
    """Keras 3's `.weights.h5`: groups `vars` called by class and number, with the layer's name as an attribute."""
    found = []
    file.visititems(lambda name, item: found.append(item) if _is_variables(name, item) else None)
    if found and not any("name" in group.attrs for group in found):
        raise ModelError(
            "a .weights.h5 of an older Keras 3, which keeps no layer names",
            hint='load it into its model with that Keras and save the whole model: model.save("model.h5")',
        )
    return {
        str(group.attrs["name"]): tuple(_array(group, key) for key in sorted(group, key=int))
        for group in found
        if "name" in group.attrs
    }


def _is_variables(name: str, item) -> bool:
    inside = name.split("/")
    return isinstance(item, h5py.Group) and inside[-1] == "vars" and inside[0] != "optimizer" and len(item) > 0


def _array(group: h5py.Group, name: str) -> np.ndarray:
    """A tensor as float32; counters among them too."""
    dataset = group[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.file != group.file or dataset.external or dataset.is_virtual:
        raise ModelError(f"tensor {name} of {group.name} does not lie in the file itself; it is not followed")
    if dataset.size is None or dataset.size > MOST_VALUES:
        raise ModelError(f"damaged: tensor {name} of {group.name} claims the shape {dataset.shape}")
    if dataset.attrs.get("dtype") == "bfloat16":
        # Two opaque bytes: the upper half of a float32.
        return (dataset[()].view("uint16").astype("uint32") << 16).view("float32")
    if dataset.dtype.kind not in "fiu":
        raise ModelError(f"tensor {name} of {group.name} is of type {dataset.dtype}; weights are numbers")
    with np.errstate(over="ignore"):
        return np.asarray(dataset[()], "float32")

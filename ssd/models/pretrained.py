"""Initial weights from files of any toolkit: what a file is, what of it goes into a network, and what does not."""

import os
from pathlib import Path

import keras
import numpy as np

from ssd.errors import ModelError
from ssd.models.backbones import Backbone
from ssd.models.convention import fold
from ssd.models.formats import batch_norm, keras_archive, tao
from ssd.models.formats.finite import as_float32
from ssd.models.formats.recognise import DARKNET, HDF5, KERAS, SAFETENSORS, recognise
from ssd.models.formats.weight_file import CONVENTIONS, Convention, WeightFile
from ssd.models.running_statistics import RANGE_SUFFIX
from ssd.models.transfer_report import Fate, Report
from ssd.spec.config import Network

__all__ = ["CONVENTIONS", "Convention", "Report", "WeightFile", "read_weights", "transfer"]

PARTS = (
    ("ssd_expand_", "expansion"),
    ("ssd_mpred_", "prediction"),
    ("ssd_conf_", "heads"),
    ("ssd_loc_", "heads"),
    ("ssd_shrink_", "dssd"),
    ("dssd_", "dssd"),
)


def read_weights(path: str | os.PathLike, network: Network) -> WeightFile:
    """The weights of a file for `network`, recognised by its content.

    Raises:
        ModelError: no file that weights can be read from, damaged, of another network, or with values that are none.
        SpecError: one of our own files with a spec that no longer reads.
    """
    path = Path(path).expanduser()
    kind = recognise(path)
    try:
        file = _reader(kind, path)(path, network)
        layers = {name: _float32(name, arrays) for name, arrays in file.layers.items()}
    except ModelError as error:
        raise error if error.where else ModelError(error.message, where=str(path), hint=error.hint) from error
    return WeightFile(**{**vars(file), "layers": layers})


def _float32(layer: str, arrays) -> tuple[np.ndarray, ...]:
    arrays = tuple(as_float32(array, f"of layer {layer}") for array in arrays)
    if len(arrays) == 4 and (arrays[3] < 0).any():
        raise ModelError(f"damaged: layer {layer} has a negative variance")
    return arrays


def _reader(kind: str, path: Path):
    if kind == KERAS:
        return keras_archive.read
    if kind == HDF5 and tao.is_tao(path):
        return tao.read
    if kind == HDF5:
        from ssd.models.formats import keras_applications

        return keras_applications.read
    if kind == SAFETENSORS:
        from ssd.models.formats import torch_state

        return torch_state.read
    assert kind == DARKNET
    from ssd.models.formats import darknet

    return darknet.read


def transfer(file: WeightFile, model: keras.Model, family: Backbone, own: Convention) -> Report:
    """Puts what fits of `file` into `model`, by layer name and shape.

    The first convolution and what follows it are changed so that the same picture gives the same features, whatever
    the pixels of the file's network were.

    Args:
        family: the backbone of `model`.
        own: what the pixels of `model` are.

    Raises:
        ModelError: the file has no layer for the backbone; `model` is as it was. Or its first convolution and its
            convention disagree on the channels.
    """
    layers, shift, notes = _folded(file, model, family, own)
    ranges = [layer.name for layer in model.layers if layer.name.endswith(RANGE_SUFFIX)]
    notes += _about_ranges(file, ranges)
    weighted = [layer for layer in model.layers if layer.weights and (layer.name not in ranges or layer.name in layers)]
    fates = []
    for layer in weighted:
        reason = _misfit(layers.get(layer.name), layer, file)
        fates.append(Fate(layer.name, _part(layer.name, family), len(layer.weights), reason))
    backbone = [fate for fate in fates if family.block_of(fate.layer) is not None]
    if all(fate.reason for fate in backbone):
        example = f": {backbone[0].layer}: {backbone[0].reason}" if backbone else ""
        raise ModelError(f"nothing of the file ({file.kind}) fits the backbone of {model.name}{example}")
    for layer, fate in zip(weighted, fates, strict=True):
        if fate.reason is None:
            layer.set_weights(layers[layer.name])
    if shift is not None:
        norm = model.get_layer(family.stem[1])
        norm.set_weights(batch_norm.with_bias(norm.get_weights(), shift))
    names = {layer.name for layer in weighted}
    rest = (name for name in file.layers if name not in names and not name.endswith(RANGE_SUFFIX))
    unused = *file.unused, *rest
    return Report(file.kind, tuple(fates), unused, (*file.notes, *notes))


def _about_ranges(file: WeightFile, ranges: list[str]) -> tuple[str, ...]:
    """A line where one of the two, file or network, is quantization-aware."""
    in_file = sum(name.endswith(RANGE_SUFFIX) for name in file.layers)
    if ranges and not in_file:
        return (f"quantization-aware from float weights: {len(ranges)} ranges begin with the first batches",)
    if in_file and not ranges:
        return (f"the file is quantization-aware, the network is not: {in_file} ranges are left out",)
    return ()


def _folded(
    file: WeightFile, model: keras.Model, family: Backbone, own: Convention
) -> tuple[dict, np.ndarray | None, tuple[str, ...]]:
    """The file's layers with its first convolution made for our pixels, where it fits the model's.

    The second result is the constant that the moving mean of the BN behind it has to lose once weights are loaded;
    None where there is no such BN, or a bias took the constant.
    """
    stem, norm = family.stem
    present = {layer.name for layer in model.layers}
    if stem not in file.layers or stem not in present:
        return file.layers, None, ()
    kernel, *bias = file.layers[stem]
    wanted, *wanted_bias = (tuple(weight.shape) for weight in model.get_layer(stem).weights)
    # The fold changes the number of channels, and nothing else of the shape.
    fits = kernel.ndim == 4 and (*kernel.shape[:2], wanted[2], kernel.shape[3]) == wanted
    if not fits or [value.shape for value in bias] != wanted_bias:
        return file.layers, None, ()
    folded = fold(kernel, file.convention, own, file.assumed)
    layers = {**file.layers, stem: (folded.kernel, *(value + folded.constant for value in bias))}
    shifted = not bias and norm in present and folded.constant.any()
    return layers, folded.constant if shifted else None, folded.notes


def _misfit(arrays: tuple[np.ndarray, ...] | None, layer, file: WeightFile) -> str | None:
    if arrays is None:
        return file.reasons.get(layer.name, "not in the file")
    wanted = [tuple(weight.shape) for weight in layer.weights]
    found = [np.shape(array) for array in arrays]
    if found == wanted:
        return None
    if layer.name.startswith(("ssd_conf_", "ssd_loc_")) and (reason := _other_head(file, layer)):
        return reason
    if len(found) != len(wanted):
        return f"{len(found)} tensors in the file, {len(wanted)} are needed"
    different = next((a, b) for a, b in zip(found, wanted, strict=True) if a != b)
    return f"shape {_shape(different[0])} in the file, {_shape(different[1])} here"


def _other_head(file: WeightFile, layer) -> str | None:
    """Where a head differs in what it predicts: it start fresh."""
    index = layer.name.rpartition("_")[2]
    conf, loc = (file.layers.get(f"ssd_{part}_{index}") for part in ("conf", "loc"))
    if conf is None or loc is None:
        return None
    boxes = loc[0].shape[-1] // 4
    outputs = layer.kernel.shape[-1]
    if layer.name.startswith("ssd_loc_"):
        return f"start fresh: {boxes} boxes a cell in the file, {outputs // 4} here" if boxes * 4 != outputs else None
    scores, rest = divmod(conf[0].shape[-1], max(boxes, 1))
    if rest or conf[0].shape[-1] == outputs:
        return None
    if outputs % max(boxes, 1):
        return f"start fresh: {boxes} boxes a cell in the file, another number here"
    return f"start fresh: {scores - 1} classes in the file, {outputs // boxes - 1} here"


def _part(name: str, family: Backbone) -> str:
    block = family.block_of(name)
    if block is not None:
        return f"block {block}"
    return next((part for prefix, part in PARTS if name.startswith(prefix)), "elsewhere")


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a number"

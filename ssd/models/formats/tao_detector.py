"""TAO's trained detectors as networks of ours: the spec's network with the file's filter counts and all its weights."""

import os

import keras

from ssd.console import warn
from ssd.errors import ModelError
from ssd.models.detector import build_detector
from ssd.models.formats import tao
from ssd.models.formats.weight_file import WeightFile
from ssd.models.widths import pruned_widths, with_widths
from ssd.spec.config import Experiment


def load(path: str | os.PathLike, spec: Experiment, precision: str) -> keras.Model:
    """A trained detector. Anchors, classes and mean are the spec's: it must be the one of its training.

    Args:
        path: an HDF5 file.
        precision: the dtype policy to run in.

    Raises:
        ModelError: damaged, no detector, or not of `spec`: another architecture, input, number of classes or boxes.
    """
    try:
        return _load(path, spec, precision)
    except ModelError as error:
        raise error if error.where else ModelError(error.message, where=str(path), hint=error.hint) from error


def _load(path: str | os.PathLike, spec: Experiment, precision: str) -> keras.Model:
    known = tao.facts(path)
    if not known.detector:
        raise ModelError("no detector: it has no heads", hint="`ssd train -m` takes a backbone for initial weights")
    if known.dssd != spec.network.dssd:
        kinds = ("ssd", "dssd")
        raise ModelError(f"the file is a {kinds[known.dssd]}, the spec has {kinds[spec.network.dssd]}_config")
    size = (spec.augmentation.height, spec.augmentation.width)
    if known.input_size not in (None, size):
        (height, width), (own_height, own_width) = known.input_size, size
        raise ModelError(
            f"the model takes images of {width}x{height}, the spec makes {own_width}x{own_height}",
            hint="set output_width and output_height in the spec",
        )
    file = tao.read(path, spec.network)
    for note in file.notes:
        warn(f"{path}: {note}")
    for line in _other_anchors(known.anchors, spec):
        warn(f"{path}: {line}")
    model = build_detector(spec.network, (*size, spec.augmentation.channels), len(spec.classes))
    model = with_widths(model, pruned_widths(file.layers, model), precision)
    _fill(model, file, spec)
    return model


def _fill(model: keras.Model, file: WeightFile, spec: Experiment) -> None:
    """All weights of the network from the file: a trained detector with a layer at its initial values is none."""
    weighted = [layer for layer in model.layers if layer.weights]
    channels = file.layers.get(weighted[0].name, (weighted[0].kernel,))[0].shape[2]
    if channels != spec.augmentation.channels:
        raise ModelError(
            f"the model takes {channels} channel{'s' * (channels != 1)}, the spec makes {spec.augmentation.channels}",
            hint="set output_channel in the spec",
        )
    for layer in weighted:
        if layer.name not in file.layers:
            raise ModelError(f"layer {layer.name} of the spec's network is not in the file")
        found = [array.shape for array in file.layers[layer.name]]
        wanted = [tuple(weight.shape) for weight in layer.weights]
        if found != wanted:
            raise _misfit(layer.name, found, wanted, file, spec)
        layer.set_weights(file.layers[layer.name])
    if extra := sorted(set(file.layers) - {layer.name for layer in weighted}):
        raise ModelError(f"layer {extra[0]} of the file is not in the spec's network", hint="check ssd_config")


def _misfit(name: str, found: list, wanted: list, file: WeightFile, spec: Experiment) -> ModelError:
    """In a user's words where a head differs."""
    index = name.rpartition("_")[2]
    if name.startswith(("ssd_conf_", "ssd_loc_")) and f"ssd_loc_{index}" in file.layers:
        boxes = file.layers[f"ssd_loc_{index}"][0].shape[-1] // 4
        own_boxes = spec.network.boxes_per_cell[int(index)]
        if boxes != own_boxes:
            return ModelError(
                f"the model has {boxes} boxes a cell on feature map {index}, the spec makes {own_boxes}",
                hint="check aspect_ratios and two_boxes_for_ar1",
            )
        classes = found[0][-1] // boxes - 1
        return ModelError(
            f"the model tells {classes} classes apart, the spec names {len(spec.classes)} ({', '.join(spec.classes)})",
            hint="target_class_mapping must be that of its training",
        )
    return ModelError(f"layer {name} has tensors of shape {found} in the file, {wanted} in the spec's network")


def _other_anchors(anchors: tuple[dict, ...], spec: Experiment) -> list[str]:
    """What the file says of its anchors where the spec says otherwise; its steps and offsets it forgets."""
    network = spec.network
    wrong = []
    for index, config in enumerate(anchors[: len(network.aspect_ratios)]):
        for key, own in (
            ("this_scale", network.scales[index]),
            ("next_scale", network.scales[index + 1]),
            ("aspect_ratios", network.aspect_ratios[index]),
            ("variances", network.variances),
            ("two_boxes_for_ar1", network.two_boxes_for_ar1),
            ("clip_boxes", network.clip_boxes),
        ):
            if key in config and not _same(config[key], own):
                wrong.append(f"{key} of feature map {index} is {config[key]}, the spec says {own}")
    if not wrong:
        return []
    more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
    return [f"the anchors are not the spec's, boxes will be off: {wrong[0]}{more}"]


def _same(one, other) -> bool:
    if isinstance(other, tuple):
        return isinstance(one, list) and len(one) == len(other) and all(map(_same, one, other))
    return isinstance(one, (int, float)) and abs(one - other) <= 1e-4 * max(1, abs(other))

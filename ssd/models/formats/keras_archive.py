"""This project's own `.keras` files as a source of initial weights."""

import os

from ssd.errors import ModelError
from ssd.models.checkpoint import load_model
from ssd.models.formats.weight_file import Convention, WeightFile
from ssd.spec import experiment_from_text
from ssd.spec.config import Experiment, Network


def read(path: str | os.PathLike, network: Network) -> WeightFile:
    """The weights of all layers; the stored spec says what the pixels were.

    Raises:
        ModelError: not ours, damaged, or of another backbone than `network`.
        SpecError: the stored spec is of no version that is known here.
    """
    artifact = load_model(path, verb=None)
    spec = experiment_from_text(artifact.spec_text, str(path), "inference")
    if spec.network.name != network.name:
        raise ModelError(
            f"the file is a {spec.network.name}, the spec says {network.name}",
            where=str(path),
            hint="check arch and nlayers",
        )
    layers = {layer.name: tuple(layer.get_weights()) for layer in artifact.model.layers if layer.weights}
    kind = f"{'dssd' if spec.network.dssd else 'ssd'} {spec.network.name} for {', '.join(spec.classes)}"
    return WeightFile(
        kind,
        layers,
        input_convention(spec),
        prunable=True,
        same_modules=spec.network.pred_num_channels == network.pred_num_channels,
        pruning=tuple(artifact.state.get("pruning", ())),
        classes=spec.classes,
    )


def input_convention(spec: Experiment) -> Convention:
    """What the network of a spec is given: BGR or gray, minus the spec's mean."""
    mean = spec.augmentation.mean
    return Convention("bgr" if len(mean) == 3 else "gray", 1.0, mean, (1.0,) * len(mean))

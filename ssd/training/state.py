"""The state of a run: what a checkpoint holds beside the network, so that a resumed run goes on as if never stopped."""

from dataclasses import asdict, dataclass, field

import keras
import numpy as np
from keras import ops

from ssd.errors import ModelError
from ssd.models.running_statistics import RANGE_SUFFIX
from ssd.training.step import TrainingModel

FORMAT = 2  # of the state; 1 numbered the optimizer's arrays
LATER = {"float_epochs", "pruning"}  # came into `Progress` within the format


@dataclass
class Progress:
    """How far a run is. JSON values only.

    A checkpoint taken at the end of an epoch has position 0. One taken by an interrupt has the batches of the
    next epoch that were trained; since the data order is a function of (seed, epoch), resuming skips just those.
    """

    epoch: int = 0  # whole epochs: trained, validated, recorded
    position: int = 0
    steps: int = 0  # batches of an epoch
    order: list[int] = field(default_factory=list)  # seed, images and batch size: what the batches follow from
    seconds: float = 0.0  # spent in the part of the epoch that `position` counts
    best_map: float | None = None
    best_epoch: int | None = None
    stopping: dict = field(default_factory=dict)  # of early_stopping.look
    stopped_early: bool = False
    history: list[dict] = field(default_factory=list)  # one row per epoch, as in the CSV
    float_epochs: int = 0  # whole epochs before the run became quantization-aware
    pruning: list[dict] = field(default_factory=list)  # what `ssd prune` noted in the file that the run began with

    def to_json(self, seed: int) -> dict:
        return {"format": FORMAT, "random_seed": seed, **asdict(self)}

    @classmethod
    def from_json(cls, state: dict) -> "Progress":
        """Raises ModelError where `state` is not that of a training run of this format."""
        names = cls.__dataclass_fields__.keys()
        # Files of older versions of the format lack what came later and is as at first.
        if state.get("format") != FORMAT or not names - LATER <= state.keys():
            raise ModelError("no training state inside: it cannot be resumed, only used as initial weights")
        return cls(**{name: state[name] for name in names & state.keys()})


def capture(training: TrainingModel) -> dict[str, np.ndarray]:
    """All numbers of a run that the saved network does not hold."""
    arrays = {name: _value(variable) for name, variable in _optimizer(training).items()}
    arrays |= {"counter": _value(training.counter), "sums": _value(training.sums)}
    arrays |= _numbered("seeds", _seeds(training.detector))
    if training.average is not None:  # then the saved network is the average
        arrays |= _numbered("weights", training.detector.weights)
    return arrays


def restore(training: TrainingModel, saved: keras.Model, arrays: dict[str, np.ndarray]) -> None:
    """Puts back what `capture` took and `saved`, the network of the checkpoint.

    Raises:
        ModelError: the checkpoint is of another network or optimizer.
    """
    _fill(training.evaluated, saved, saved.get_weights())
    raw = _numbers("weights", arrays)  # none where no average was kept
    # Where model_ema was switched off, training goes on from the weights it was training.
    if raw or training.average is not None:
        _fill(training.detector, saved, raw or saved.get_weights())
    # A layer that was frozen has no slots in the checkpoint: they start at zero.
    known = [(variable, arrays[name]) for name, variable in _optimizer(training).items() if name in arrays]
    _assign([variable for variable, _ in known], [value for _, value in known], "optimizer")
    _assign(_seeds(training.detector), _numbers("seeds", arrays), "network")
    training.counter.assign(arrays["counter"])
    training.sums.assign(arrays["sums"])


def _fill(model: keras.Model, saved: keras.Model, values: list[np.ndarray]) -> None:
    """Puts the weights of a network of the layers of `saved`, in their order, into `model`.

    A network that became quantization-aware, or is it no longer, differs in ranges alone: those start afresh, or go.
    """
    by_layer, rest = {}, list(values)
    for layer in saved.layers:
        if layer.weights:
            by_layer[layer.name], rest = rest[: len(layer.weights)], rest[len(layer.weights) :]
    own = {layer.name: layer.weights for layer in model.layers if layer.weights}
    different = by_layer.keys() ^ own.keys()
    if rest or any(not name.endswith(RANGE_SUFFIX) for name in different):
        raise _other("network")
    for name, weights in own.items():  # in this order in every process: JAX's hear of each other's values
        if name in by_layer:
            _assign(weights, by_layer[name], "network")


def _optimizer(training: TrainingModel) -> dict:
    """The optimizer's variables by what they belong to, `optimizer.conv1_kernel_momentum`, whatever else is frozen."""
    return {f"optimizer.{variable.path.partition('/')[2]}": variable for variable in training.optimizer.variables}


def _seeds(model: keras.Model) -> list:
    """What the layers that draw random numbers draw the next from; not among a model's weights."""
    weights = {id(weight) for weight in model.weights}
    return [variable for variable in model.variables if id(variable) not in weights]


def _numbered(prefix: str, variables) -> dict[str, np.ndarray]:
    return {f"{prefix}.{index:04d}": _value(variable) for index, variable in enumerate(variables)}


def _numbers(prefix: str, arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
    return [arrays[name] for name in sorted(arrays) if name.startswith(f"{prefix}.")]


def _assign(variables, values: list[np.ndarray], what: str) -> None:
    if [tuple(v.shape) for v in variables] != [tuple(v.shape) for v in values]:
        raise _other(what)
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _other(what: str) -> ModelError:
    return ModelError(
        f"the checkpoint's {what} is not the one of the spec",
        hint="resume with the spec that the run began with, or start a new run with -m for its weights",
    )


def _value(variable) -> np.ndarray:
    return np.array(ops.convert_to_numpy(variable))

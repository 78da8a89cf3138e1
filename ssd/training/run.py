"""The parts of a training run, and how they are put together."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

import keras

from ssd.console import say, warn
from ssd.errors import ModelError
from ssd.models.backbones import backbone
from ssd.models.detector import anchors_for, build_detector
from ssd.models.freeze import apply_freezing
from ssd.models.pretrained import Report, transfer
from ssd.models.running_statistics import RunningStatistics
from ssd.models.widths import check_heads, layer_arrays, pruned_widths, with_widths
from ssd.quantization.rewrite import quantize
from ssd.spec.config import Experiment
from ssd.status import StatusLog
from ssd.training.checkpoints import Checkpoints
from ssd.training.distribution import Device
from ssd.training.hardware import whole_step_by_xla
from ssd.training.interrupt import Interrupt
from ssd.training.optimizers import make_optimizer
from ssd.training.profile import Profile
from ssd.training.schedules import SoftStart
from ssd.training.start import Start
from ssd.training.state import Progress, capture, restore
from ssd.training.step import TrainingModel
from ssd.training.tensorboard import Board
from ssd.training.validation import Validator


@dataclass(frozen=True)
class Run:
    """The parts of one run."""

    spec: Experiment
    folder: Path
    device: Device
    training: TrainingModel
    schedule: SoftStart
    loader: object
    validator: Validator | None
    checkpoints: Checkpoints
    status: StatusLog
    board: Board
    interrupt: Interrupt
    profile: Profile

    @property
    def csv(self) -> Path:
        kind = "dssd" if self.spec.network.dssd else "ssd"
        return self.folder / f"{kind}_training_log_{self.spec.network.name}.csv"

    @property
    def curves(self) -> Path:
        return self.folder / "learning_curve.png"

    def save(self, progress: Progress, *, keep: bool, best: bool) -> None:
        """Writes the state as the last checkpoint; `keep` under its epoch's number too, `best` as the best too.

        Of several processes, which all have the same, the first one writes.
        """
        if self.device.share.process:
            return
        arrays = capture(self.training)
        seed = self.spec.random_seed
        model = self.training.evaluated
        self.checkpoints.save(
            model, self.spec.text, progress.to_json(seed), progress.epoch, arrays, keep=keep, best=best
        )


def build(
    spec: Experiment, steps: int, start: Start | None = None, devices: int = 1
) -> tuple[TrainingModel, SoftStart]:
    """The network with fresh weights, its loss and its optimizer, ready for `train_on_batch`.

    Args:
        steps: batches of an epoch.
        start: a pruned network to begin with has fewer filters than the spec's, and so has the one that is built.
        devices: that train together; the learning rate grows with them, as the batch does.

    Raises:
        ModelError: a pruned network whose filters or heads are not those of the spec's.
        SpecError: keep_float names no convolution.
    """
    config, shape = spec.training, (spec.augmentation.height, spec.augmentation.width, spec.augmentation.channels)

    def detector() -> keras.Model:
        return build_detector(spec.network, shape, len(spec.classes), config.regularizer)

    trained = detector()
    average = detector() if config.model_ema else None
    with _about(start.path if start else ""):
        if widths := _widths(start, trained):
            say(f"{start.path} is a pruned {spec.network.name}: its filter counts are taken")
            if not start.resumed:
                check_heads(start.weights.layers, trained)
            trained = with_widths(trained, widths)
            average = with_widths(average, widths) if config.model_ema else None
    if config.qat:
        trained = quantize(trained, config.qat.keep_float)
        average = quantize(average, config.qat.keep_float) if config.model_ema else None
    apply_freezing(trained, spec.network)
    training = TrainingModel(trained, anchors_for(trained, spec), spec.network, average, spec.augmentation)
    schedule = SoftStart(config.learning_rate, config.num_epochs * steps, devices)
    training.compile(optimizer=make_optimizer(config.optimizer, schedule), jit_compile=whole_step_by_xla(devices))
    training.optimizer.build(training.trainable_variables)
    return training, schedule


def _widths(start: Start | None, model: keras.Model) -> dict[str, int]:
    """Filters by layer, where the network to begin with is a pruned form of `model`."""
    if start is not None and start.resumed:  # another pred_num_channels would have been refused
        return pruned_widths(layer_arrays(start.artifact.model), model, same_modules=True)
    if start is not None and start.weights is not None and start.weights.prunable:
        return pruned_widths(start.weights.layers, model, start.weights.same_modules)
    return {}


@contextlib.contextmanager
def _about(path: str):
    """Lets errors over a file's network name the file."""
    try:
        yield
    except ModelError as error:
        raise ModelError(error.message, where=path, hint=error.hint or "check arch and nlayers") from error


def begin(training: TrainingModel, start: Start, steps: int, order: list[int]) -> Report | None:
    """Puts initial weights or the state of a checkpoint into a fresh `training`.

    Args:
        steps: batches of an epoch.
        order: what the batches of an epoch follow from, see `Progress`.

    Returns:
        What became of initial weights; None without any.

    Raises:
        ModelError: nothing of the file fits, or a checkpoint does not fit whole.
    """
    report = None
    if start.resumed:
        restore(training, start.artifact.model, start.artifact.arrays)
        if start.progress.order != order and start.progress.position:
            warn(f"epoch {start.progress.epoch + 1} starts again: its batches are not the ones of the checkpoint")
            start.progress.position = 0
            start.progress.steps = 0  # what was done of the epoch does not count
        if start.progress.steps != steps:
            # The schedule goes on at the same part of the run.
            for count in (training.optimizer.iterations, training.counter):
                count.assign(start.progress.epoch * steps)
    elif start.weights is not None:
        report = _load(training, start)
        for count in (training.optimizer.iterations, training.counter):
            count.assign(start.progress.epoch * steps)
    start.progress.steps, start.progress.order = steps, order
    return report


def _load(training: TrainingModel, start: Start) -> Report:
    network = training.network
    with _about(start.path):
        report = transfer(start.weights, training.detector, backbone(network.arch, network.nlayers), start.pixels)
    for line in report.lines(start.path):
        say(line)
    loaded = [training.detector.get_layer(fate.layer) for fate in report.fates if not fate.reason]
    if not start.progress.epoch and any(isinstance(layer, RunningStatistics) and layer.trainable for layer in loaded):
        # What `count_steps` makes of step 0.
        say("    batch statistics and ranges average anew: a tenth of the file's is left after the first batch")
    fresh = [fate.layer for fate in report.fates if fate.reason]
    if start.progress.epoch and fresh:
        raise ModelError(
            f"the run cannot go on after epoch {start.progress.epoch}: {len(fresh)} layers do not fit ({fresh[0]})",
            where=start.path,
            hint="leave out --initial_epoch to begin a new run with the weights that fit",
        )
    if frozen := [name for name in fresh if not training.detector.get_layer(name).trainable]:
        warn(f"frozen at random weights, since the file has none for them: {', '.join(frozen)}")
    if training.average is not None:
        training.average.set_weights(training.detector.get_weights())
    return report

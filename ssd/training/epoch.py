"""One epoch: its steps, then validation, the decision to stop, the checkpoint."""

import time
from collections.abc import Iterator

import keras
import numpy as np
from keras import ops

from ssd.console import progress as progress_bar
from ssd.console import say, since_start
from ssd.errors import RunError
from ssd.training import early_stopping
from ssd.training.run import Run
from ssd.training.shapes import keyed, keyed_pixels
from ssd.training.state import Progress
from ssd.training.step import TrainingModel, regularisation
from ssd.training.validation import Validation

LOOK_EVERY = 1.0  # seconds between looks at the losses; each waits for the device
LOOK_STEPS = 16  # the same for several processes


def train_epoch(run: Run, progress: Progress) -> dict:
    """The steps of the next epoch, from `progress.position` on; returns the training part of its row."""
    training, loader, config = run.training, run.loader, run.spec.training
    if progress.position == 0:
        training.start_epoch()
        progress.seconds = 0.0
    before, began = progress.seconds, time.perf_counter()
    looked, waited, seen = began, 0.0, 0
    counter = int(ops.convert_to_numpy(training.counter))
    recent: dict[int, np.ndarray] = {}  # image indices by step, since the last look
    batches = _batches(loader, progress)
    with progress_bar(total=loader.samples, label=f"epoch {progress.epoch + 1}/{config.num_epochs}") as bar:
        bar.update(min(progress.position * loader.batch_size, loader.samples))
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            waited += time.perf_counter() - asked
            if batch is None:
                break
            pixels, truth = batch
            if progress.position == 0 and run.board.wants_images():
                run.board.images(progress.epoch + 1, pixels, truth, run.spec.classes, run.spec.augmentation)
            recent[counter] = np.asarray(truth["index"])
            pixels = keyed_pixels(pixels, len(recent[counter]), loader.share)
            run.profile.before_step()
            first, began_step = training.train_function is None, time.perf_counter()
            training.train_on_batch(pixels, keyed(truth))
            run.profile.after_step(training.totals)
            if first:
                training.totals()  # waits for the device
                took = time.perf_counter() - began_step
                say(f"compiled in {took:.1f} s, with the first step; {since_start():.0f} s since the start")
            seen += len(recent[counter])
            bar.update(len(recent[counter]))
            counter += 1
            progress.position += 1
            progress.seconds = before + time.perf_counter() - began
            stopping = run.interrupt.requested()
            if stopping or _time_to_look(run, counter, looked):
                losses = check_losses(run, progress, recent)
                bar.set_postfix_str(f"loss {losses['loss']:.3f}", refresh=False)
                run.board.scalars(counter, {"loss": losses["loss"], "lr": _rate(run)})
                looked = time.perf_counter()
            if stopping:
                check_weights(run, progress, recent)
                run.interrupt.check()
    totals = check_losses(run, progress, recent)
    if recent:
        check_weights(run, progress, recent)
    spent = max(time.perf_counter() - began, 1e-9)
    return {
        "epoch": progress.epoch + 1,
        "loss": totals["loss"],
        "classification_loss": totals["classification"],
        "localisation_loss": totals["localisation"],
        "regularisation_loss": totals["regularisation"],
        "lr": _rate(run),
        "images_per_second": seen / spent,
        "data_wait": waited / spent,
        "seconds": progress.seconds,
    }


def _time_to_look(run: Run, counter: int, looked: float) -> bool:
    # Processes that train together must find a bad loss at the same step, however long it took each of them.
    if run.device.share.processes > 1:
        return counter % LOOK_STEPS == 0
    return time.perf_counter() - looked > LOOK_EVERY


def _batches(loader, progress: Progress) -> Iterator:
    """What is left of the epoch, as the backend takes it."""
    if progress.position >= loader.steps:  # the run was interrupted while it validated
        return
    for batch in loader.epoch(progress.epoch, skip=progress.position):
        yield batch if keras.backend.backend() == "tensorflow" else keras.tree.map_structure(np.asarray, batch)


def check_losses(run: Run, progress: Progress, recent: dict[int, np.ndarray]) -> dict[str, float]:
    """The mean losses of the epoch so far; forgets all of `recent` but the last step.

    Raises:
        RunError: a step had a loss that is not finite.
    """
    bad = run.training.first_bad_step()
    if bad is not None:
        batch = progress.position - (max(recent) - bad)
        raise _diverged(run, progress, f"the loss is not finite at step {bad}, batch {batch}", bad, recent)
    for step in sorted(recent)[:-1]:
        del recent[step]
    return run.training.totals()


def check_weights(run: Run, progress: Progress, recent: dict[int, np.ndarray]) -> None:
    """Raises RunError where the last update left weights that are not finite: they must not be saved."""
    if not all(np.isfinite(ops.convert_to_numpy(weight)).all() for weight in run.training.detector.weights):
        step = max(recent)
        message = f"the weights are not finite after step {step}, batch {progress.position}"
        raise _diverged(run, progress, message, step, recent)


def _diverged(run: Run, progress: Progress, message: str, step: int, recent: dict[int, np.ndarray]) -> RunError:
    def images(number: int) -> str:
        return ", ".join(run.loader.names(recent[number].tolist()))

    lines = ["usual causes: a learning rate that is too high (lower max_learning_rate, lengthen soft_start), damaged"]
    lines[0] += " images, boxes that are wrong"
    if step - 1 in recent:
        lines.append(f"images of the batch before, which may have done the harm: {images(step - 1)}")
    saved = f"the last good state is kept: {run.checkpoints.last}"
    lines.append(saved if progress.history else "no epoch was finished: nothing is saved")
    return RunError(
        f"{message} of epoch {progress.epoch + 1}, learning rate {run.schedule.at(step):.2e}; "
        f"images of the batch: {images(step)}",
        hint="\n    ".join(lines),
    )


def conclude_epoch(run: Run, progress: Progress, row: dict) -> dict:
    """Validates when due, decides on stopping, saves; returns the whole row."""
    config, number = run.spec.training, progress.epoch + 1
    rule, memory, stop = config.early_stopping, progress.stopping, False
    if rule is not None and rule.monitor == "loss":
        memory, stop = early_stopping.look(rule, memory, number, row["loss"])
    final = stop or number >= config.num_epochs
    validated: dict = {}
    if run.validator is not None and (final or number % run.spec.evaluation.validation_period == 0):
        found = run.validator.run(_penalty(run.training), run.interrupt.check)
        validated = _validation_row(found)
        if rule is not None and rule.monitor == "validation_loss":
            memory, stop = early_stopping.look(rule, memory, number, found.loss)
            final = final or stop
    if stop and number < config.num_epochs:
        say(f"early stopping: {rule.monitor} has not fallen by {rule.min_delta:g} since epoch {memory['epoch']}")
    # Nothing of `progress` changes before this point: an interrupt during validation leaves a state to go on from.
    mean = validated.get("mAP")
    best = mean is not None and (progress.best_map is None or mean > progress.best_map)
    if best:
        progress.best_map, progress.best_epoch = mean, number
    progress.stopping, progress.stopped_early = memory, stop
    progress.epoch, progress.position = number, 0
    progress.history.append({**row, **validated})
    if run.board.wants_histograms():
        run.board.histograms(number, run.training.evaluated)
    keep = final or number % max(config.checkpoint_interval, 1) == 0
    run.save(progress, keep=keep, best=best)
    return progress.history[-1]


def _validation_row(found: Validation) -> dict:
    return {
        "mAP": found.mean,
        "validation_loss": found.loss,
        **{f"AP_{name}": value for name, value in found.per_class.items()},
    }


def _penalty(training: TrainingModel) -> float:
    return float(ops.convert_to_numpy(regularisation(training.detector)))


def _rate(run: Run) -> float:
    """The learning rate of the next step."""
    return run.schedule.at(int(ops.convert_to_numpy(run.training.optimizer.iterations)))

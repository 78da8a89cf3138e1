"""Where a run begins: from scratch, from initial weights, or from a checkpoint of an earlier run."""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

from ssd.console import say, warn
from ssd.encryption import plain_file
from ssd.errors import InputError, ModelError
from ssd.models.checkpoint import Artifact, load_model, read_state
from ssd.models.formats.keras_archive import input_convention
from ssd.models.formats.recognise import HDF5, recognise
from ssd.models.pretrained import CONVENTIONS, Convention, WeightFile, read_weights
from ssd.quantization.rewrite import is_quantized
from ssd.spec import experiment_from_text
from ssd.spec.config import Experiment
from ssd.training.changes import check_resumable
from ssd.training.checkpoints import Checkpoints
from ssd.training.state import Progress

IMAGENET = "imagenet"  # in place of a file: the public weights of the spec's backbone


@dataclass(frozen=True)
class Start:
    """`weights` are initial weights; a resumed run has an `artifact` with the whole state. Neither: from scratch.

    `path` is the file as the user named it.
    """

    progress: Progress
    path: str = ""
    artifact: Artifact | None = None
    weights: WeightFile | None = None
    pixels: Convention | None = None  # of the spec, which `weights` are fitted to

    @property
    def resumed(self) -> bool:
        return self.artifact is not None


def find_start(
    spec: Experiment,
    checkpoints: Checkpoints,
    *,
    resume: bool,
    weights: str | None,
    initial_epoch: int,
    weights_input: str | None = None,
    key: str | None = None,
) -> Start:
    """Decides by `--resume`, `-m`, `--initial_epoch` and the spec's load_model paths; refuses to overwrite another run.

    Args:
        weights: a file, or "imagenet".
        weights_input: what the pixels of the file's network were, a name in `CONVENTIONS`; None: what its format says.
        key: of an encrypted file, whether `weights` or the spec names it.

    Raises:
        InputError, ModelError: nothing there to begin from, or it does not fit.
    """
    training = spec.training
    goes_on = resume or initial_epoch > 1 or (weights is None and training.resume_model_path)
    if weights_input and goes_on:
        raise InputError(
            "--weights_input is for the initial weights of a new run; one that goes on has its input in the spec",
            hint="leave it out",
        )
    if resume:
        path, artifact, progress = checkpoints.newest()
        return _resumed(spec, str(path), artifact, progress)
    if weights is None and initial_epoch > 1 and training.resume_model_path is None:
        raise InputError(
            f"--initial_epoch {initial_epoch} needs the checkpoint to go on from: -m FILE",
            hint="--resume finds it in the results folder by itself",
        )
    state_path = weights if initial_epoch > 1 else None
    if weights is None and training.resume_model_path:
        state_path = training.resume_model_path
    if state_path:
        with plain_file(state_path, key) as plain:
            if recognise(plain) != HDF5:
                return _resumed_from(spec, state_path, plain, checkpoints, initial_epoch)
    if state_path and initial_epoch == 1:
        raise InputError(
            f"{state_path} does not say which epoch it is of",
            where="training_config.resume_model_path",
            hint="name the first epoch to train: --initial_epoch N",
        )
    if present := checkpoints.present():
        raise InputError(
            f"{checkpoints.folder} holds the checkpoints of another run ({present[-1].name})",
            where="-r/--results_dir",
            hint="go on with that run: --resume; start a new one: another results folder",
        )
    if weights and (named := training.resume_model_path or training.pretrain_model_path or training.pruned_model_path):
        warn(f"-m {weights} is taken, not the spec's {named}")
    path = state_path or weights or training.pretrain_model_path or training.pruned_model_path
    if path is None:
        if weights_input:
            raise InputError(f"--weights_input {weights_input} needs weights: -m FILE")
        return Start(Progress())
    return _initial(spec, path, weights_input, initial_epoch, key)


def _initial(spec: Experiment, path: str, weights_input: str | None, initial_epoch: int, key: str | None) -> Start:
    if path == IMAGENET and not os.path.exists(path):
        from ssd.models.imagenet import fetch

        path = str(fetch(spec.network))
    with plain_file(path, key) as plain:
        file = read_weights(plain, spec.network)
    if len(file.classes) == len(spec.classes) and file.classes != spec.classes:
        there, here = (", ".join(names) for names in (file.classes, spec.classes))
        warn(f"{path} is for {there}, the spec for {here}: each class begins with the scores of the one in its place")
    if weights_input:
        file = dataclasses.replace(file, convention=CONVENTIONS[weights_input], assumed="")
    if initial_epoch > 1:
        say(f"going on after epoch {initial_epoch - 1} with the weights of {path}; the optimizer starts afresh")
    done = initial_epoch - 1
    progress = Progress(epoch=done, float_epochs=done, pruning=list(file.pruning))
    return Start(progress, path, weights=file, pixels=input_convention(spec))


def _resumed_from(spec: Experiment, path: str, plain: Path, checkpoints: Checkpoints, initial_epoch: int) -> Start:
    artifact = load_model(plain, verb=None)
    try:
        progress = Progress.from_json(artifact.state)
    except ModelError as error:
        hint = "leave out --initial_epoch (resume_model_path) to begin a run with its weights"
        raise ModelError(error.message, where=path, hint=hint) from error
    if initial_epoch not in (1, progress.epoch + 1):
        raise InputError(
            f"{path} is the state after epoch {progress.epoch}", hint=f"use --initial_epoch {progress.epoch + 1}"
        )
    further = [other for other in checkpoints.present() if read_state(other)[0].get("epoch", 0) > progress.epoch]
    if further:
        raise InputError(
            f"{checkpoints.folder} holds later epochs ({further[-1].name}) than {path} (epoch {progress.epoch})",
            where="-r/--results_dir",
            hint="go on with the latest: --resume; go on from this one: another results folder",
        )
    return _resumed(spec, path, artifact, progress)


def _resumed(spec: Experiment, path: str, artifact: Artifact, progress: Progress) -> Start:
    for change in check_resumable(experiment_from_text(artifact.spec_text, path, "inference"), spec):
        warn(f"changed since {path} was written: {change}")
    if artifact.state["random_seed"] != spec.random_seed:
        warn("the data come in another order from here on: random_seed was changed")
    batch = f", batch {progress.position} of epoch {progress.epoch + 1}" if progress.position else ""
    say(f"resuming from {path}: after epoch {progress.epoch}{batch}")
    _change_of_kind(progress, is_quantized(artifact.model), spec.training.qat is not None)
    return Start(progress, path, artifact)


def _change_of_kind(progress: Progress, before: bool, now: bool) -> None:
    if now == before:
        return
    if now:
        say("the float checkpoint goes on quantization-aware: ranges begin with the next batches")
        progress.float_epochs = progress.epoch
    else:
        say("the quantization-aware checkpoint goes on in float: its ranges are dropped")
    # The best so far, and how long there was none better, are of the other kind.
    progress.best_map = progress.best_epoch = None
    progress.stopping, progress.stopped_early = {}, False

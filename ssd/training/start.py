"""Where a run begins: from scratch, from initial weights, or from a checkpoint of an earlier run."""

import dataclasses
import os
from dataclasses import dataclass

from ssd.console import say, warn
from ssd.errors import InputError
from ssd.models.checkpoint import Artifact, load_model, read_state
from ssd.models.formats.keras_archive import input_convention
from ssd.models.formats.recognise import HDF5, recognise
from ssd.models.pretrained import CONVENTIONS, Convention, WeightFile, read_weights
from ssd.spec import experiment_from_text
from ssd.spec.config import Experiment
from ssd.training.changes import check_resumable
from ssd.training.checkpoints import Checkpoints
from ssd.training.state import Progress

IMAGENET = "imagenet"  # in place of a file: the public weights of the spec's backbone


@dataclass(frozen=True)
class Start:
    """`weights` are initial weights; a resumed run has an `artifact` with the whole state. Neither: from scratch."""

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
) -> Start:
    """Decides by `--resume`, `-m`, `--initial_epoch` and the spec's load_model paths; refuses to overwrite another run.

    Args:
        weights: a file, or "imagenet".
        weights_input: what the pixels of the file's network were, a name in `CONVENTIONS`; None: what its format says.

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
    if state_path and recognise(state_path) != HDF5:
        return _resumed_from(spec, state_path, checkpoints, initial_epoch)
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
    return _initial(spec, path, weights_input, initial_epoch)


def _initial(spec: Experiment, path: str, weights_input: str | None, initial_epoch: int) -> Start:
    if path == IMAGENET and not os.path.exists(path):
        from ssd.models.imagenet import fetch

        path = str(fetch(spec.network))
    file = read_weights(path, spec.network)
    if weights_input:
        file = dataclasses.replace(file, convention=CONVENTIONS[weights_input], assumed="")
    if initial_epoch > 1:
        say(f"going on after epoch {initial_epoch - 1} with the weights of {path}; the optimizer starts afresh")
    return Start(Progress(epoch=initial_epoch - 1), path, weights=file, pixels=input_convention(spec))


def _resumed_from(spec: Experiment, path: str, checkpoints: Checkpoints, initial_epoch: int) -> Start:
    artifact = load_model(path, verb=None)
    progress = Progress.from_json(artifact.state)
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
    return Start(progress, path, artifact)

"""Where a run begins: from scratch, from initial weights, or from a checkpoint of an earlier run."""

from dataclasses import dataclass

from ssd.console import say, warn
from ssd.errors import InputError
from ssd.models.checkpoint import Artifact, load_model, read_state
from ssd.spec import experiment_from_text
from ssd.spec.config import Experiment
from ssd.training.changes import check_resumable
from ssd.training.checkpoints import Checkpoints
from ssd.training.state import Progress


@dataclass(frozen=True)
class Start:
    """`artifact` gives initial weights, or, where `resumed`, the whole state. None: from scratch."""

    progress: Progress
    path: str = ""
    artifact: Artifact | None = None
    resumed: bool = False


def find_start(
    spec: Experiment, checkpoints: Checkpoints, *, resume: bool, weights: str | None, initial_epoch: int
) -> Start:
    """Decides by `--resume`, `-m`, `--initial_epoch` and the spec's load_model paths; refuses to overwrite another run.

    Raises:
        InputError, ModelError: nothing there to begin from, or it does not fit.
    """
    training = spec.training
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
        return _resumed_from(spec, state_path, checkpoints, initial_epoch)
    if present := checkpoints.present():
        raise InputError(
            f"{checkpoints.folder} holds the checkpoints of another run ({present[-1].name})",
            where="-r/--results_dir",
            hint="go on with that run: --resume; start a new one: another results folder",
        )
    if weights is None and training.pruned_model_path:
        raise InputError(
            "training_config.pruned_model_path: retraining a pruned model is not available in this version",
            hint="use pretrain_model_path for the initial weights of an unpruned one",
        )
    if weights and (named := training.resume_model_path or training.pretrain_model_path or training.pruned_model_path):
        warn(f"-m {weights} is taken, not the spec's {named}")
    path = weights or training.pretrain_model_path
    if path is None:
        return Start(Progress())
    return Start(Progress(), path, load_model(path, verb=None))


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
    return Start(progress, path, artifact, resumed=True)

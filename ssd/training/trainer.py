"""The training program, top to bottom: find the start, build, train epoch after epoch, report."""

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import keras

from ssd.console import only_errors, say, warn
from ssd.data.loader import Loader
from ssd.data.pipeline import evaluation_loader, training_index, training_loader
from ssd.data.sources import ImageIndex
from ssd.errors import RunError
from ssd.files import results_folder, sole_writer, write_text
from ssd.models.detector import summary
from ssd.models.running_statistics import RANGE_SUFFIX
from ssd.spec import with_batch_size
from ssd.spec.config import Experiment, Training
from ssd.status import StatusLog
from ssd.training import distribution, hardware, history
from ssd.training.auto_batch import OUT_OF_MEMORY, largest_batch
from ssd.training.checkpoints import Checkpoints, run_name
from ssd.training.epoch import conclude_epoch, train_epoch
from ssd.training.interrupt import Interrupt, Stopped
from ssd.training.profile import Profile
from ssd.training.run import Run, begin, build
from ssd.training.start import find_start
from ssd.training.state import Progress
from ssd.training.tensorboard import Board
from ssd.training.validation import Validator

DRAW_EVERY = 5.0  # seconds between pictures of the curves, for epochs shorter than the drawing


@dataclass(frozen=True)
class Request:
    """What the command line adds to a spec."""

    resume: bool = False
    weights: str | None = None  # a file, or "imagenet"
    weights_input: str | None = None  # what the pixels of its network were, a name in CONVENTIONS
    initial_epoch: int = 1
    use_amp: bool = False
    deterministic: bool = False
    key: str | None = None  # of encrypted files
    cache: str | None = None  # of decoded images: "memory", "disk" (in the results folder), or a folder
    auto_batch: bool = False
    profile: int = 0  # steps to trace
    gpus: int = 1  # of this process
    gpu_index: list[int] | None = None
    cluster: distribution.Cluster | None = None


def train(spec: Experiment, results_dir: str | Path, request: Request) -> Path:
    """Trains what `spec` says and returns the folder of the results.

    Raises:
        InputError and its kinds: the spec, the data or a file cannot be used; nothing was written.
        RunError: the loss is not finite, the disk is full, memory is short, another process of the run was lost; the
            last whole checkpoint is kept.
        KeyboardInterrupt: after Ctrl-C, SIGTERM or SIGHUP; `Stopped`, its kind, where the state was saved.
    """
    index = None
    if request.auto_batch:  # before this process takes memory on the device
        index, devices = training_index(spec), len(request.gpu_index or ()) or request.gpus
        most = max(len(index) // devices, 1)
        gpus = distribution.gpus_shown(request.gpus, request.gpu_index)
        spec = with_batch_size(spec, largest_batch(spec, request.use_amp, most, devices, gpus))
        limit = f", for there are {len(index)} training images" if spec.training.batch_size >= most else ""
        images = f"{spec.training.batch_size} image{'s' * (spec.training.batch_size > 1)}"
        say(f"--auto_batch: batches of {images} a device{limit}; learning rates are the spec's")
    folder = Path(results_dir).expanduser()
    checkpoints = Checkpoints.of(folder, spec.network)
    with distribution.among_others(request.cluster, checkpoints.present):
        return _train(spec, folder, checkpoints, request, index)


def _train(
    spec: Experiment, folder: Path, checkpoints: Checkpoints, request: Request, index: ImageIndex | None
) -> Path:
    device = request_device(request)
    if device.share.process:
        only_errors()
    distribution.check_alike({"spec": spec.text, "results folder": os.path.realpath(folder)}, device)
    with distribution.in_step(device):
        start = find_start(
            spec,
            checkpoints,
            resume=request.resume,
            weights=request.weights,
            initial_epoch=request.initial_epoch,
            weights_input=request.weights_input,
            key=request.key,
        )
    start.progress.stopped_early &= spec.training.early_stopping is not None
    where = (start.progress.epoch, start.progress.position)
    distribution.check_alike({"model to begin with": start.path, "its epoch": where}, device)
    if reason := finished(spec, start.progress):
        say(f"nothing to resume: {reason}")
        return folder

    precision = hardware.set_precision(request.use_amp, device)
    keras.utils.set_random_seed(spec.random_seed)
    with contextlib.ExitStack() as during:
        during.enter_context(distribution.together(device))
        with distribution.in_step(device):
            loader, validation = loaders(spec, device, index)
        images = {"training images": loader.index.names, "validation images": validation and validation.index.names}
        distribution.check_alike({**images, "precision": precision}, device)
        training, schedule = build(spec, loader.steps, start, device.count)
        report = begin(training, start, loader.steps, [spec.random_seed, loader.samples, loader.batch_size])
        validator = Validator(training.evaluated, training.anchors, spec, validation) if validation else None

        written = during.enter_context(written_folder(folder, device))
        if request.cache:  # late: it takes long, and what is wrong with all the rest is known by now
            loader.keep_decoded(cache_of(request, folder))
        agree = distribution.agreed if device.share.processes > 1 else None
        interrupt = during.enter_context(Interrupt(agree))
        status = StatusLog(written)
        if start.resumed and written == folder:
            checkpoints.settle_best(start.path, start.progress)
        write_text(written / "resolved_spec.txt", spec.text)
        if report is not None:
            content = {"file": start.path, **report.as_json()}
            write_text(written / "initial_weights.json", json.dumps(content, indent=2) + "\n")
        board = Board(written / "events", spec.training.visualizer if written == folder else None)
        profile = Profile(written / "profile", request.profile if written == folder else 0)
        run = Run(
            spec=spec,
            folder=written,
            device=device,
            training=training,
            schedule=schedule,
            loader=loader,
            validator=validator,
            checkpoints=checkpoints,
            status=status,
            board=board,
            interrupt=interrupt,
            profile=profile,
        )
        banner(run, precision)
        try:
            epochs(run, start.progress)
        except KeyboardInterrupt as stop:
            if isinstance(stop, Stopped):
                save_interrupted(run, start.progress)
            status.write("FAILURE", "Training was interrupted")
            raise
        except Exception as error:
            said = distribution.lost(bool(checkpoints.present())) if distribution.was_loss(error) else error
            status.write("FAILURE", str(said))
            raise explained(said, spec) from error
        finally:
            board.close()
            profile.close()
        profile.check()
        status.write("SUCCESS", "Training finished successfully.")
    return folder


def request_device(request: Request) -> distribution.Device:
    """What a request trains on; joins its cluster. Raises InputError, RunError: see `ssd.training.distribution`."""
    cluster = request.cluster
    # What starts one process a GPU may show all of them to each: JAX then takes the one that is meant.
    if cluster is None or cluster.coordinator != distribution.AUTO:
        os.environ["CUDA_VISIBLE_DEVICES"] = distribution.gpus_shown(request.gpus, request.gpu_index)
    if request.deterministic:
        hardware.make_deterministic()
    if cluster is not None:
        distribution.join(cluster)
    return distribution.choose_device(request.gpus, request.gpu_index, cluster)


def loaders(
    spec: Experiment, device: distribution.Device, index: ImageIndex | None = None
) -> tuple[Loader, Loader | None]:
    """Of the training data (`index`, where they were looked at before) and the validation data, in batches for all
    devices together."""
    share, count = device.share, device.count
    training = training_loader(spec, batch_size=spec.training.batch_size * count, share=share, index=index)
    if not spec.dataset.validation:
        return training, None
    return training, evaluation_loader(spec, batch_size=spec.evaluation.batch_size * count, share=share)


def cache_of(request: Request, results: Path) -> str | Path:
    """Where decoded images are kept: "memory", or a folder."""
    if request.cache == "memory":
        return request.cache
    return results / "cache" if request.cache == "disk" else Path(request.cache).expanduser()


@contextlib.contextmanager
def written_folder(folder: Path, device: distribution.Device) -> Iterator[Path]:
    """Where this process writes: `folder`, swept and kept from other runs; the others of a run into the void."""
    if device.share.process:
        with tempfile.TemporaryDirectory(prefix="ssd-train-") as nowhere:
            yield Path(nowhere)
        return
    made = not folder.exists()
    try:
        with sole_writer(results_folder(folder), "another ssd train"):
            Checkpoints(folder / "weights", "").sweep()
            yield folder
    finally:
        if made:  # a run that is refused before its first file leaves nothing
            with contextlib.suppress(OSError):
                folder.rmdir()


def epochs(run: Run, progress: Progress) -> Progress:
    """Trains until the last epoch or an early stop."""
    config = run.spec.training
    names = history.columns(run.spec.classes, run.validator is not None)
    drawn = 0.0
    seconds = []  # per epoch of this process
    if progress.history:
        history.write_csv(run.csv, progress.history, names)
    run.status.write("STARTED", "Starting Training Loop.")
    settled = False
    while not finished(run.spec, progress):
        if not settled and (settled := settles(config, progress)):
            run.training.settle()
        began = time.perf_counter()
        row = conclude_epoch(run, progress, train_epoch(run, progress))
        seconds.append(time.perf_counter() - began)
        # The first epoch of a process compiles; it counts for the estimate only while there is no other.
        usual = seconds[1:] or seconds
        eta = sum(usual) / len(usual) * (config.num_epochs - progress.epoch)
        say(history.line(row, config.num_epochs, eta))
        history.write_csv(run.csv, progress.history, names)
        history.report_status(run.status, row, config.num_epochs, eta)
        run.board.epoch(row)
        if finished(run.spec, progress) or time.monotonic() - drawn > DRAW_EVERY:
            history.draw_curves(run.curves, progress.history, run_name(run.spec.network))
            drawn = time.monotonic()
    run.status.write("RUNNING", "Training loop complete.")
    return progress


def settles(config: Training, progress: Progress) -> bool:
    """Whether ranges and batch statistics stay as they are in the next epoch: a share of the quantization-aware ones is
    done."""
    if config.qat is None or config.qat.settle_at == 1:
        return False
    before = progress.float_epochs
    return progress.epoch - before >= config.qat.settle_at * (config.num_epochs - before)


def save_interrupted(run: Run, progress: Progress) -> None:
    """Keeps the steps of an unfinished epoch: `Stopped` comes between two steps, or during validation."""
    run.save(progress, keep=False, best=False)
    where = f"after batch {progress.position} of epoch {progress.epoch + 1}"
    warn(f"saved {where} in {run.checkpoints.last}; go on with --resume")


def finished(spec: Experiment, progress: Progress) -> str | None:
    """Why there is nothing left to train, or None."""
    if progress.epoch >= spec.training.num_epochs:
        return f"all {spec.training.num_epochs} epochs are trained; raise num_epochs to go on"
    if progress.stopped_early:
        return (
            f"early stopping ended the run after epoch {progress.epoch}; take early_stopping out of the spec to go on"
        )
    return None


def banner(run: Run, precision: str) -> None:
    """What is trained, on what, with how much."""
    spec, about = run.spec, summary(run.training.detector)
    height, width, channels = about.input_shape
    say(
        f"{run_name(spec.network)}: input {width}x{height}x{channels}, {len(spec.classes)} classes, "
        f"{about.anchors} anchors, {about.parameters / 1e6:.1f} M parameters"
    )
    if spec.training.qat:
        ranges = sum(layer.name.endswith(RANGE_SUFFIX) for layer in run.training.detector.layers)
        share = spec.training.qat.settle_at
        end = f"they settle after {share:.0%} of its epochs" if share < 1 else "they never settle"
        say(f"quantization-aware: {ranges} tensors with INT8 ranges; like batch statistics {end}")
    say(f"device: {run.device.name}; {precision}; Keras {keras.__version__} on {keras.backend.backend()}")
    say(
        f"{run.loader.samples} training images in {run.loader.steps} batch{'es' * (run.loader.steps > 1)} of "
        f"{run.loader.batch_size}; "
        f"{run.validator.loader.samples if run.validator else 'no'} validation images; "
        f"{spec.training.num_epochs} epochs"
    )


def explained(error: Exception, spec: Experiment, *, resumable: bool = True) -> Exception:
    """A shortage of memory in words; any other error as it is."""
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, MemoryError) or any(sign in text for sign in OUT_OF_MEMORY):
        batch = spec.training.batch_size
        return RunError(
            f"out of memory with batches of {batch} images of {spec.augmentation.width}x{spec.augmentation.height}",
            hint=f"lower training_config.batch_size_per_gpu (to {max(batch // 2, 1)}), or eval_config.batch_size if it "
            "happened in validation" + ("; then go on with --resume" if resumable else ""),
        )
    return error

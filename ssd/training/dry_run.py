"""`train --dry_run`: everything is built as for a run, looked at, and trained for one step; nothing of it is kept."""

import csv
import json
import time
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from keras import ops

from ssd.console import say
from ssd.data.audit import write_csv
from ssd.data.loader import Loader
from ssd.data.sources import ImageIndex
from ssd.errors import RunError
from ssd.files import results_folder, sole_writer, whole_file, write_text
from ssd.inspection import anchor_report, data_report, model_report, picture
from ssd.inspection.anchor_text import anchor_text
from ssd.inspection.duplicates import find_duplicates
from ssd.inspection.memory import estimate_memory
from ssd.models.detector import feature_map_sizes
from ssd.spec.config import Experiment
from ssd.training import distribution, hardware
from ssd.training.checkpoints import Checkpoints, run_name
from ssd.training.distribution import Device
from ssd.training.run import begin, build
from ssd.training.shapes import keyed, keyed_pixels
from ssd.training.start import find_start
from ssd.training.step import TrainingModel
from ssd.training.trainer import Request, explained, finished, loaders, request_device

FOLDER = "dry_run"  # in the results folder
UNCOVERED = "uncovered_boxes.csv"


@dataclass(frozen=True)
class Step:
    """One training step on one batch; `peak` bytes of this process' memory before and after, on a CPU."""

    images: int
    loss: float
    finite: bool  # loss and weights
    seconds: float  # with the compilation
    peak: tuple[int, int] | None


def dry_run(spec: Experiment, results_dir: str | Path, request: Request) -> Path:
    """Builds what `train` would, reports on model, data and anchors, trains one step and stops.

    Returns:
        The folder of the reports, `dry_run` in the results folder. No checkpoint and no log is written.

    Raises:
        InputError and its kinds: as `train`.
        RunError: the loss or the weights are not finite after the step, or memory is short; the reports are written.
    """
    device = request_device(request)
    results = Path(results_dir).expanduser()
    start = find_start(
        spec,
        Checkpoints.of(results, spec.network),
        resume=request.resume,
        weights=request.weights,
        initial_epoch=request.initial_epoch,
        weights_input=request.weights_input,
        key=request.key,
    )
    if reason := finished(spec, start.progress):
        say(f"nothing is left to train: {reason}\n")
    precision = hardware.set_precision(request.use_amp, device)
    keras.utils.set_random_seed(spec.random_seed)
    with distribution.together(device):
        loader, validation = loaders(spec, device)
        training, _ = build(spec, loader.steps, start, device.count)
        begin(training, start, loader.steps, [spec.random_seed, loader.samples, loader.batch_size])
        return _reported(spec, results_folder(results), device, precision, loader, validation, training, start.progress)


def _reported(spec, results: Path, device, precision: str, loader: Loader, validation, training, progress) -> Path:
    """Reports and the step, into `results/dry_run`."""
    folder = results / FOLDER
    with sole_writer(results, "another ssd train"):
        folder.mkdir(exist_ok=True)
        pages: list[str] = []
        report = {
            "network": run_name(spec.network),
            "batch_size": spec.training.batch_size,
            "device": device.name,
            "precision": precision,
            "model": _model(spec, training, precision, pages),
            **_data(spec, loader.index, validation and validation.index, folder, pages),
            "anchors": _anchors(spec, training, loader.index, validation and validation.index, folder, pages),
        }
        try:
            step = _step(spec, training, loader, progress.epoch, device)
            _show(_step_text(step), pages)
            # JSON has no NaN.
            report["step"] = {**vars(step), "loss": step.loss if np.isfinite(step.loss) else None}
        finally:  # a step that fails is when the reports are needed most
            write_text(folder / "report.txt", "\n\n".join(pages) + "\n")
            write_text(folder / "report.json", json.dumps(report, indent=2) + "\n")
    if not step.finite:
        raise RunError(
            "the loss or the weights are not finite after one step: a run would end here",
            hint=f"lower max_learning_rate, lengthen soft_start, look at the suspicious labels in {folder}",
        )
    return folder


def _show(text: str, pages: list[str]) -> None:
    pages.append(text)
    say(f"{text}\n")


def _model(spec: Experiment, training: TrainingModel, precision: str, pages: list[str]) -> dict:
    detector = training.detector
    memory = estimate_memory(
        detector,
        spec.training.batch_size,
        optimizer_entries=sum(int(np.prod(variable.shape)) for variable in training.optimizer.variables),
        average=training.average is not None,
        compute_bytes=2 if precision == "mixed_bfloat16" else 4,
    )
    report = model_report.inspect_model(detector, spec.network)
    _show(model_report.text(report, memory), pages)
    return model_report.as_json(report, memory)


def _data(spec: Experiment, training: ImageIndex, validation: ImageIndex | None, folder: Path, pages) -> dict:
    size = spec.augmentation.height, spec.augmentation.width
    repeats = data_report.repeated_images(find_duplicates(training, validation), training, validation)
    found = {}
    for purpose, index, repeated in (("training", training, repeats[0]), ("validation", validation, repeats[1])):
        if index is None:
            _show("Validation data: none named in the spec", pages)
            continue
        report = data_report.inspect_data(index, purpose, spec.classes, size, repeated)
        name = f"suspicious_{purpose}.csv"
        write_csv(folder / name, report.findings)
        _show(data_report.text(report, name), pages)
        found[f"{purpose}_data"] = data_report.as_json(report)
    return found


def _anchors(spec: Experiment, training: TrainingModel, index: ImageIndex, validation, folder: Path, pages) -> dict:
    report = anchor_report.inspect_anchors(
        spec.network,
        (spec.augmentation.height, spec.augmentation.width),
        feature_map_sizes(training.detector),
        spec.classes,
        index,
        validation,
        spec.augmentation.zoom_out[1],
    )
    with whole_file(folder / UNCOVERED) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "class", "width", "height", "best_iou"])
        rows.writerows(
            (name, label, *(f"{value:.4g}" for value in rest)) for name, label, *rest in anchor_report.uncovered(report)
        )
    picture.draw(report, folder / "anchors.png")
    _show(anchor_text(report, UNCOVERED), pages)
    return anchor_report.as_json(report)


def _step(spec: Experiment, training: TrainingModel, loader: Loader, epoch: int, device: Device) -> Step:
    """Trains on the first batch of `epoch`."""
    pixels, truth = next(iter(loader.epoch(epoch)))
    if keras.backend.backend() != "tensorflow":
        pixels, truth = keras.tree.map_structure(np.asarray, (pixels, truth))
    training.start_epoch()
    before, began = hardware.peak_memory(device), time.perf_counter()
    try:
        training.train_on_batch(keyed_pixels(pixels, len(truth["index"]), loader.share), keyed(truth))
        loss = training.totals()["loss"]  # waits for the device
    except Exception as error:
        raise explained(error, spec, resumable=False) from error
    seconds = time.perf_counter() - began
    finite = all(np.isfinite(ops.convert_to_numpy(weight)).all() for weight in training.detector.weights)
    finite = finite and bool(np.isfinite(loss))
    peak = (before, hardware.peak_memory(device)) if device.kind == "cpu" else None
    return Step(len(truth["index"]), loss, finite, seconds, peak)


def _step_text(step: Step) -> str:
    state = "finite" if step.finite else "NOT FINITE"
    text = f"One training step: {step.images} images, loss {step.loss:.3f} ({state}), {step.seconds:.1f} s, most of it "
    text += "compilation"
    if step.peak:
        before, after = step.peak
        text += f"; memory of this process: at most {after / 1e9:.2f} GB, {(after - before) / 1e9:.2f} GB of it new"
    return text

"""`ssd inference`: detects objects in images; annotated pictures, KITTI labels and JSON."""

import argparse
import itertools
import time
from pathlib import Path

from ssd.commands.flags import PROVIDERS, add_key, batch_size_fault, model_fault
from ssd.console import say, warn
from ssd.errors import DataError, InputError, raise_all
from ssd.files import overwritten
from ssd.status import noting_interruption


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-m", "--model_path", required=True, metavar="FILE", help="model (.keras, .onnx, .engine, TAO's .hdf5)"
    )
    parser.add_argument(
        "-i",
        "--image_dir",
        required=True,
        metavar="IMAGES",
        help="an image, a folder (without its subfolders) or a quoted pattern: 'shots/**/*.jpg'",
    )
    parser.add_argument("-e", "--experiment_spec", metavar="FILE", help="experiment spec; default: the model's own")
    parser.add_argument(
        "-t", "--threshold", default="0.3", metavar="SCORE", help="least score, between 0 and 1 (default: 0.3)"
    )
    parser.add_argument(
        "-r", "--results_dir", metavar="DIR", help="folder for the results; default: 'inference' beside the model"
    )
    parser.add_argument(
        "-b", "--batch_size", type=int, metavar="N", help="images per batch; default: eval_config.batch_size"
    )
    parser.add_argument("--json", metavar="FILE", help="write all detections to this file too, as a COCO result list")
    parser.add_argument(
        "--provider", choices=PROVIDERS, help="what runs an ONNX graph; default: CUDA where there is one"
    )
    add_key(parser)


def run(args: argparse.Namespace) -> None:
    threshold = _check(args)
    folder = Path(args.results_dir or Path(args.model_path).parent / "inference").expanduser()
    with noting_interruption(folder, "Inference"):
        _run(args, folder, threshold)


def _run(args: argparse.Namespace, folder: Path, threshold: float) -> None:
    from ssd.inference.images import find_images, output_names

    paths = find_images(args.image_dir)
    outputs = output_names(paths, folder)
    if args.json:
        named = [args.model_path, *([args.experiment_spec] if args.experiment_spec else []), *paths]
        if taken := overwritten(Path(args.json).expanduser(), named):
            raise InputError(f"--json {args.json}: would replace {taken}, which is read", hint="name another file")

    from ssd.data.pipeline import image_loader
    from ssd.deploy.predictors import load_predictor
    from ssd.encryption import plain_file
    from ssd.evaluation.stopwatch import Stopwatch
    from ssd.files import results_folder, write_text
    from ssd.inference.outputs import Writer
    from ssd.inference.run import infer
    from ssd.spec import load_experiment
    from ssd.status import StatusLog

    given = load_experiment(args.experiment_spec, "inference") if args.experiment_spec else None
    with plain_file(args.model_path, args.key) as path:
        predictor = load_predictor(path, given, verb="inference", provider=args.provider)
    spec = predictor.spec
    least = spec.nms.confidence_threshold
    if least > threshold:
        warn(
            f"-t {threshold:g}: nms_config.confidence_threshold {least:g} is higher and already drops what scores less"
        )
    start = time.perf_counter()
    loader = image_loader(
        [str(path) for path in paths], spec.augmentation, batch_size=args.batch_size or spec.evaluation.batch_size
    )
    batches = iter(loader)
    first = next(batches, None)
    if first is None:
        raise_all([DataError(text) for text in _unreadable(loader)] or [DataError("no image could be read")])

    if args.json:
        results_folder(Path(args.json).expanduser().parent, "--json")
    results_folder(folder)
    stopwatch = Stopwatch(predictor.predict)
    status = StatusLog(folder)
    status.write("STARTED", f"Starting {'DSSD' if spec.network.dssd else 'SSD'} Inference.")
    try:
        writer = Writer(paths, outputs, spec.classes, threshold, keep=args.json is not None)
        done = infer(stopwatch, itertools.chain([first], batches), writer, len(paths))
        if args.json:
            write_text(Path(args.json).expanduser(), writer.json_text())
    except Exception as error:
        status.write("FAILURE", str(error))
        raise
    _summary(writer, done, len(paths), time.perf_counter() - start, _unreadable(loader), threshold)
    say(stopwatch.line())
    status.write("SUCCESS", "Inference finished successfully.")
    say(f"results: {folder}")


def _summary(writer, done: int, total: int, seconds: float, unreadable: list[str], threshold: float) -> None:
    for text in unreadable:
        warn(f"skipped {text}")
    found = ", ".join(f"{name} {count}" for name, count in sorted(writer.detections.items()))
    say(f"detections: {sum(writer.detections.values())}{f' ({found})' if found else ''}")
    if not writer.detections:
        best = (
            f"the best one scores {writer.best_score:.3f}" if writer.best_score else "there are no weaker ones either"
        )
        warn(f"no detection scores {threshold:g} or more; {best}: a lower -t, or more training")
    skipped = f", {total - done} of {total} skipped as unreadable" if done < total else ""
    say(f"{done} images in {seconds:.1f} s, {done / seconds:.1f} images/s with loading and writing{skipped}")


def _unreadable(loader) -> list[str]:
    return [str(problem) for problem in loader.problems]


def _check(args: argparse.Namespace) -> float:
    """Refuses flags that cannot be meant; returns the threshold."""
    faults = model_fault(args.model_path), batch_size_fault(args.batch_size)
    raise_all([fault for fault in faults if fault])
    if args.json is not None and Path(args.json).expanduser().is_dir():
        raise InputError(f"--json {args.json}: is a folder; the name of a file is needed")
    try:
        threshold = float(args.threshold)
    except ValueError:
        raise InputError(f"-t/--threshold {args.threshold}: no number; a score between 0 and 1 is needed") from None
    if not 0 < threshold < 1:
        raise InputError(f"-t/--threshold {args.threshold}: a score between 0 and 1 is needed, both excluded")
    return threshold

"""`ssd evaluate`: VOC AP and COCO metrics of a model on the validation data."""

import argparse
import dataclasses
import json
import time
from pathlib import Path

from ssd.commands.flags import PROVIDERS, add_key, batch_size_fault, model_fault
from ssd.console import say, warn
from ssd.errors import InputError, raise_all
from ssd.status import noting_interruption


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-m",
        "--model_path",
        required=True,
        metavar="FILE",
        help="model (.keras, .onnx, .engine, TAO's .hdf5)",
    )
    parser.add_argument("-e", "--experiment_spec", metavar="FILE", help="experiment spec; default: the model's own")
    parser.add_argument("-i", "--image_dir", metavar="DIR", help="validation images, instead of the spec's (with -l)")
    parser.add_argument(
        "-l", "--label_dir", metavar="DIR", help="validation labels, KITTI, instead of the spec's (with -i)"
    )
    parser.add_argument(
        "-r", "--results_dir", metavar="DIR", help="folder for the results; default: 'evaluate' beside the model"
    )
    parser.add_argument(
        "-b", "--batch_size", type=int, metavar="N", help="images per batch; default: eval_config.batch_size"
    )
    parser.add_argument(
        "--gallery", type=int, default=12, metavar="N", help="images in the gallery of the worst; 0: none (default: 12)"
    )
    parser.add_argument(
        "--provider", choices=PROVIDERS, help="what runs an ONNX graph; default: CUDA where there is one"
    )
    add_key(parser)


def run(args: argparse.Namespace) -> None:
    _check(args)
    folder = Path(args.results_dir or Path(args.model_path).parent / "evaluate").expanduser()
    with noting_interruption(folder, "Evaluation"):
        _run(args, folder)


def _run(args: argparse.Namespace, folder: Path) -> None:
    from ssd.data.pipeline import evaluation_loader
    from ssd.deploy.predictors import load_predictor
    from ssd.encryption import plain_file
    from ssd.files import results_folder
    from ssd.spec import load_experiment
    from ssd.status import StatusLog

    # With folders of its own, the command asks nothing of the spec's validation data.
    verb = "inference" if args.image_dir else "evaluate"
    given = load_experiment(args.experiment_spec, verb) if args.experiment_spec else None
    with plain_file(args.model_path, args.key) as path:
        predictor = load_predictor(path, given, verb=verb, provider=args.provider)
    spec = _with_folders(predictor.spec, args)
    loader = evaluation_loader(spec, batch_size=args.batch_size or spec.evaluation.batch_size)
    results_folder(folder)
    status = StatusLog(folder)
    status.write("STARTED", f"Starting {'DSSD' if spec.network.dssd else 'SSD'} evaluation.")
    try:
        mean = _evaluate(args, spec, predictor, loader, folder)
    except Exception as error:
        status.write("FAILURE", str(error))
        raise
    status.write("SUCCESS", "Evaluation finished successfully.", kpi={"mAP": mean})
    say(f"results: {folder}")


def _check(args: argparse.Namespace) -> None:
    faults = model_fault(args.model_path), batch_size_fault(args.batch_size)
    raise_all([fault for fault in faults if fault])
    if args.gallery < 0:
        raise InputError(f"--gallery is {args.gallery}; a number of images, or 0 for none, is needed")
    if (args.image_dir is None) != (args.label_dir is None):
        given, other = ("-i/--image_dir", "-l/--label_dir") if args.image_dir else ("-l/--label_dir", "-i/--image_dir")
        raise InputError(f"{given} needs {other} too: the images and their labels")
    for flag, path in (("-i/--image_dir", args.image_dir), ("-l/--label_dir", args.label_dir)):
        if path is not None and not Path(path).expanduser().is_dir():
            raise InputError(f"{flag} {path}: no such folder")


def _with_folders(spec, args: argparse.Namespace):
    if args.image_dir is None:
        return spec
    from ssd.spec.config import DataSource

    source = DataSource(str(Path(args.image_dir).expanduser()), str(Path(args.label_dir).expanduser()))
    return dataclasses.replace(spec, dataset=dataclasses.replace(spec.dataset, validation=(source,)))


def _evaluate(args: argparse.Namespace, spec, predictor, loader, folder: Path) -> float | None:
    """Measures, shows and writes everything; returns the mAP."""
    from ssd.evaluation.average_precision import voc_report
    from ssd.evaluation.coco_metrics import coco_report
    from ssd.evaluation.diagnosis import diagnose
    from ssd.evaluation.gallery import worst_images
    from ssd.evaluation.matching import match_voc
    from ssd.evaluation.plots import pr_curve
    from ssd.evaluation.report import as_json, coco_lines, mean_line, table
    from ssd.evaluation.run import evaluate_loader
    from ssd.evaluation.stopwatch import Stopwatch
    from ssd.files import write_text

    start = time.perf_counter()
    stopwatch = Stopwatch(predictor.predict)
    results = evaluate_loader(stopwatch, loader, label="evaluate")
    seconds = time.perf_counter() - start

    rules = spec.evaluation
    matches = match_voc(results, rules.matching_iou_threshold)
    report = voc_report(results, spec.classes, rules.matching_iou_threshold, rules.average_precision_mode, matches)
    coco = coco_report(results, spec.classes)
    say(table(report))
    say()
    say(mean_line(report))
    say(coco_lines(coco))
    say(f"{len(results)} images in {seconds:.1f} s, {len(results) / seconds:.1f} images/s with loading")
    say(stopwatch.line())
    causes = diagnose(results, report, matches, spec)
    if causes:
        warn("\n".join(causes))

    curve, gallery = folder / "PR_curve.png", folder / "worst_images.png"
    facts = {
        "model": str(args.model_path),
        "seconds": round(seconds, 3),
        "images_per_second": round(len(results) / seconds, 3),
        **stopwatch.facts(),
    }
    for picture in (curve, gallery):  # of an earlier evaluation, if this one draws none
        picture.unlink(missing_ok=True)
    write_text(folder / "metrics.json", json.dumps({**as_json(report, coco), **facts}, indent=2) + "\n")
    # The curve is what visualize_pr_curve asks for; who names a results folder wants all there is.
    if rules.visualize_pr_curve or args.results_dir:
        pr_curve(report, curve)
    if args.gallery:
        worst_images(results, report, matches, loader.image_bytes, gallery, args.gallery)
    return report.mean

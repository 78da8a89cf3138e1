"""`ssd dataset_convert`: KITTI or COCO data to TFRecords in TAO's layout."""

import argparse
import os
from pathlib import Path

from ssd import console
from ssd.errors import InputError, SsdError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-d", "--dataset_export_spec", required=True, metavar="SPEC", help="conversion spec (prototxt)")
    parser.add_argument(
        "-o", "--output_filename", required=True, metavar="PREFIX", help="path prefix of the record files: DIR/NAME"
    )
    parser.add_argument("-r", "--results_dir", metavar="DIR", help="folder for status.json")
    parser.add_argument(
        "-c",
        "--class_names_file",
        metavar="FILE",
        help="class names, one a line; used when the spec has no target_class_mapping",
    )
    parser.add_argument(
        "-f",
        "--validation_fold",
        type=int,
        metavar="FOLD",
        help="the fold for validation (sequence mode, COCO): noted in the manifest, so that training warns when it is "
        "given that fold too, and spared by max_training_samples; random mode has fold 0",
    )
    parser.add_argument("--strict", action="store_true", help="write nothing when any label or image has a problem")
    parser.add_argument(
        "--processes", type=int, metavar="N", help="worker processes that write shards (default: one a CPU)"
    )


def run(args: argparse.Namespace) -> None:
    from ssd import files
    from ssd.data import convert
    from ssd.spec import load_conversion
    from ssd.status import StatusLog

    if args.processes is not None and args.processes < 1:
        raise InputError(f"--processes {args.processes}: must be at least 1")
    prefix = convert.check_prefix(args.output_filename)
    spec = load_conversion(args.dataset_export_spec)
    names = _class_names(args.class_names_file, spec.classes)
    status = StatusLog(args.results_dir and files.results_folder(args.results_dir), append=False)
    status.write("STARTED", "Starting Object Detection Dataset Convert.")
    try:
        _convert(args, spec, names, prefix, status)
    except KeyboardInterrupt:
        status.write("FAILURE", "Dataset convert was interrupted")
        raise
    except SsdError as error:
        status.write("FAILURE", str(error).splitlines()[0])
        raise
    except Exception as error:
        status.write("FAILURE", f"{type(error).__name__}: {error}")
        raise


def _convert(args: argparse.Namespace, spec, names: tuple[str, ...], prefix: Path, status) -> None:
    from ssd.data import convert, summary
    from ssd.spec.config import KittiInput

    kind = "kitti" if isinstance(spec.source, KittiInput) else "coco"
    status.write("STARTED", f"Instantiating a {kind} converter")
    plan = convert.make_plan(spec, names, args.validation_fold)
    total = sum(map(len, plan.folds))
    processes = args.processes or len(os.sched_getaffinity(0))
    console.say(f"converting {total} images ({kind}), classes: {', '.join(plan.classes)}")
    outcome = convert.convert(plan, spec, prefix, processes=processes, strict=args.strict)
    for result in outcome.results:
        status.write("RUNNING", f"{result.name}: {result.records} records")
    for problem in outcome.problems:
        console.log.debug("%s", problem)
    console.say("\n".join(["", *summary.table(outcome)]))
    lines = summary.skipped(outcome)
    if lines:
        console.say("\n".join(["", "left out or changed:", *lines]))
    for line in summary.warnings(outcome):
        console.warn(line)
    if outcome.problems_csv:
        console.say(f"\n{len(outcome.problems)} problems with file and line: {outcome.problems_csv}")
    folds = outcome.manifest.folds
    objects = {name: sum(fold.objects[name] for fold in folds) for name in plan.classes}
    status.write(
        "SUCCESS",
        "TFRecords generation complete.",
        kpi={"num_images": sum(fold.images for fold in folds)},
        categorical={"num_objects": objects},
    )
    console.say("\n".join(["", "for the experiment spec:", *summary.patterns(outcome, prefix), ""]))
    console.say(f"records: {prefix}*  ({len(outcome.results)} shards; manifest {prefix}-manifest.json)")


def _class_names(path: str | None, classes: tuple[str, ...]) -> tuple[str, ...]:
    """The lines of the names file, or nothing where the spec's mapping goes first."""
    if path is None:
        return ()
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise InputError(f"-c/--class_names_file {path}: cannot read it: {reason}") from error
    names = tuple(line.strip() for line in lines if line.strip())
    if not names:
        raise InputError(f"-c/--class_names_file {path}: no names in it; one class a line is expected")
    if classes:
        console.warn(f"-c/--class_names_file {path} is not used: the spec has a target_class_mapping")
        return ()
    return names

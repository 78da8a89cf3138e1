"""`ssd prune`: removes the filters of a trained detector that count least."""

import argparse
import difflib
import fnmatch
import math
import tempfile
from pathlib import Path

from ssd.commands.flags import add_key, folder_fault, model_fault
from ssd.console import say, warn
from ssd.errors import InputError, raise_all
from ssd.files import overwritten
from ssd.status import noting_interruption

# As in ssd.pruning.importance, which is too slow to import for a help text.
NORMALIZERS = ("max", "L2")
CRITERIA = ("union", "intersection", "arithmetic_mean", "geometric_mean")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-m", "--model", required=True, metavar="FILE", help="trained model (.keras or TAO's .hdf5)")
    parser.add_argument("-o", "--output_file", metavar="FILE", help="pruned model to write (.keras; .tlt with a key)")
    parser.add_argument("-e", "--experiment_spec", metavar="FILE", help="spec of a TAO .hdf5, which has none inside")
    parser.add_argument(
        "-r", "--results_dir", metavar="DIR", help="folder for the report; default: that of the pruned model"
    )
    how = parser.add_argument_group("what goes")
    how.add_argument(
        "-pth",
        "--pruning_threshold",
        type=float,
        metavar="T",
        help="filters with a normalized norm up to T go (default: 0.1)",
    )
    how.add_argument(
        "--target_ratio",
        type=float,
        metavar="R",
        help="instead of -pth: the lowest threshold that leaves a share R of the parameters",
    )
    how.add_argument("-n", "--normalizer", choices=NORMALIZERS, default="max", help="of a layer's norms (default: max)")
    how.add_argument(
        "-eq",
        "--equalization_criterion",
        choices=CRITERIA,
        default="union",
        help="how the norms of layers that are bound to each other become one (default: union)",
    )
    how.add_argument(
        "-pg",
        "--pruning_granularity",
        type=int,
        default=8,
        metavar="N",
        help="filter counts are multiples (default: 8)",
    )
    how.add_argument(
        "-nf", "--min_num_filters", type=int, default=16, metavar="N", help="filters every layer keeps (default: 16)"
    )
    how.add_argument(
        "-el",
        "--excluded_layers",
        nargs="*",
        action="extend",
        default=[],
        metavar="NAME",
        help="layers that keep all filters, names or quoted patterns such as 'block_4*'; the heads always do",
    )
    parser.add_argument("--dry_run", action="store_true", help="report, and write nothing")
    add_key(parser)


def run(args: argparse.Namespace) -> None:
    _check(args)
    if args.dry_run:
        _prune(args)
        return
    with noting_interruption(args.results_dir or Path(args.output_file).parent, "Pruning"):
        _prune(args)


def _prune(args: argparse.Namespace) -> None:
    from ssd.encryption import encrypt_file, plain_file
    from ssd.models.checkpoint import load_model, save_model
    from ssd.models.latency import latencies
    from ssd.pruning import report as reports
    from ssd.pruning.plan import Pruner, Rules
    from ssd.quantization.rewrite import is_quantized, strip
    from ssd.spec import load_experiment

    spec = load_experiment(args.experiment_spec, "inference") if args.experiment_spec else None
    with plain_file(args.model, args.key, encrypts=(args.output_file or "").endswith(".tlt")) as path:
        artifact = load_model(path, verb=None, spec=spec)
    if spec is not None and artifact.spec is None:
        warn(f"-e {args.experiment_spec} is not used: {args.model} has its own spec inside")
    model = artifact.model
    if is_quantized(model):
        model, _ = strip(model)
        say("quantization-aware: its float network is pruned; retrain with enable_qat: true to quantize it again")
    rules = Rules(args.normalizer, args.equalization_criterion, args.pruning_granularity, args.min_num_filters)
    pruner = Pruner(model, rules, _excluded(model, args.excluded_layers))
    if args.target_ratio is None:
        threshold = 0.1 if args.pruning_threshold is None else args.pruning_threshold
    else:
        threshold = pruner.threshold_for(args.target_ratio)
        # All its digits: rounded down it would leave a filter more.
        say(f"threshold for a share of {args.target_ratio:g} of the parameters: {threshold}")
    pruned = pruner.prune(threshold)
    report = reports.compare(model, pruned, pruner.channels.groups, threshold)
    say(reports.text(report))
    say()
    for line in reports.totals(report):
        say(line)
    slow, fast = latencies([model, pruned])
    say(f"latency, one image on this CPU: {slow:.1f} ms -> {fast:.1f} ms (network alone, median)")
    if not report.removed:
        warn("nothing was removed: no filter is at or below the threshold, or granularity and minimum keep it")
    if args.dry_run:
        say("dry run: nothing was written")
        return
    record = {
        "model": str(args.model),
        "threshold": threshold,
        **vars(rules),
        "excluded_layers": list(args.excluded_layers),
        "pruning_ratio": report.ratio,
        "removed": report.removed,
    }
    facts = {**record, "latency_ms": [slow, fast]}
    state = {"pruning": [*artifact.state.get("pruning", []), record]}

    def save(path: Path) -> None:
        if path.suffix != ".tlt":
            save_model(path, pruned, artifact.spec_text, state)
            return
        with tempfile.TemporaryDirectory(prefix="ssd-") as folder:
            plain = Path(folder) / "model.keras"
            save_model(plain, pruned, artifact.spec_text, state)
            encrypt_file(plain, path, args.key)

    _write(args, report, facts, save)


def _write(args: argparse.Namespace, report, facts: dict, save) -> None:
    import json

    from ssd.files import results_folder, write_text
    from ssd.pruning import report as reports
    from ssd.status import StatusLog

    output = Path(args.output_file).expanduser()
    results_folder(output.parent, "-o/--output_file")  # first: without -r it is the report's folder as well
    folder = results_folder(args.results_dir or output.parent)
    status = StatusLog(folder)
    try:
        save(output)
        sizes = [Path(args.model).expanduser().stat().st_size, output.stat().st_size]
        content = {**reports.as_json(report), **facts, "file_bytes": sizes}
        write_text(folder / "pruning.json", json.dumps(content, indent=2) + "\n")
        reports.draw(report, folder / "pruning.png")
    except Exception as error:
        status.write("FAILURE", str(error))
        raise
    say(f"file: {sizes[0] / 1e6:.1f} MB -> {sizes[1] / 1e6:.1f} MB (a checkpoint's first number counts its optimizer)")
    line = f"Pruning ratio (pruned model / original model): {report.ratio:.6g}"
    kpi = {"pruning_ratio": report.ratio, "size": sizes[1] / 2**20, "param_count": report.parameters[1] / 1e6}
    status.write("RUNNING", line, kpi=kpi)
    status.write("SUCCESS", "Pruning finished successfully.")
    say(line)
    say(f"pruned model: {output}")
    say(f"results: {folder}")


def _check(args: argparse.Namespace) -> None:
    problems = [fault] if (fault := model_fault(args.model, "-m/--model")) else []
    if args.output_file is None and not args.dry_run:
        problems.append(InputError("-o/--output_file is missing: the pruned model to write", hint="or --dry_run"))
    elif args.output_file is not None:
        problems += _output_faults(args)
    if args.results_dir and (fault := folder_fault("-r/--results_dir", Path(args.results_dir).expanduser())):
        problems.append(fault)
    if args.pruning_threshold is not None:
        if args.target_ratio is not None:
            problems.append(
                InputError("-pth and --target_ratio both say how much goes", hint="leave out one of the two")
            )
        # Normalized by L2 norms are about the root of their number.
        bound, allowed = (1, "0 up to but without 1") if args.normalizer == "max" else (math.inf, "0 or more")
        if not 0 <= args.pruning_threshold < bound:
            problems.append(InputError(f"-pth/--pruning_threshold is {args.pruning_threshold:g}, allowed: {allowed}"))
    if args.target_ratio is not None and not 0 < args.target_ratio <= 1:
        problems.append(InputError(f"--target_ratio is {args.target_ratio:g}, allowed: above 0, up to 1"))
    if args.pruning_granularity < 1:
        problems.append(InputError(f"-pg/--pruning_granularity is {args.pruning_granularity}; at least 1 is needed"))
    if args.min_num_filters < 0:
        problems.append(InputError(f"-nf/--min_num_filters is {args.min_num_filters}; at least 0 is needed"))
    raise_all(problems)


def _output_faults(args: argparse.Namespace) -> list[InputError]:
    path = Path(args.output_file).expanduser()
    named = f"-o/--output_file {args.output_file}"
    if path.suffix == ".tlt" and not args.key:
        return [InputError(f"{named}: a .tlt is encrypted", hint="-k KEY, or a .keras")]
    if path.suffix not in (".keras", ".tlt"):
        return [
            InputError(f"{named}: a pruned model is a .keras file", hint=f"for example {path.stem or 'pruned'}.keras")
        ]
    if path.is_dir():
        return [InputError(f"{named}: is a folder; the name of a file is needed")]
    if overwritten(path, [args.model]):
        return [InputError(f"{named}: would replace the model that is pruned", hint="name another file")]
    return [fault] if (fault := folder_fault(named, path.parent)) else []


def _excluded(model, patterns: list[str]) -> list[str]:
    """Names of the layers that `-el` means.

    A pattern means layers with weights: `block_2a_*` fits the padding in front of the block's convolution too, and that
    one hands on what the block before it makes. By its whole name it counts.

    Raises:
        InputError: a name or pattern fits no layer; all of them at once.
    """
    names = [layer.name for layer in model.layers]
    weighted = [layer.name for layer in model.layers if layer.weights]
    found, problems = set(), []
    for pattern in patterns:
        hits = [pattern] if pattern in names else fnmatch.filter(weighted, pattern)
        if not hits:
            near = difflib.get_close_matches(pattern, names, n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else "the pruning report names all layers"
            problems.append(
                InputError(f"-el/--excluded_layers {pattern}: the model has no such layer with weights", hint=hint)
            )
        found.update(hits)
    raise_all(problems)
    return [name for name in names if name in found]

"""The flags of `ssd export`, and which of them go together. All is looked at before TensorFlow is loaded."""

import argparse
import os
from pathlib import Path

from ssd.commands.flags import add_key, folder_fault, model_fault
from ssd.console import warn
from ssd.errors import InputError, raise_all

DATA_TYPES = ("fp32", "fp16", "int8")
# As in ssd.deploy.export_graph and ssd.quantization.calibration, which are too slow to import for a help text.
NMS_KINDS = ("standard", "efficient_nms", "none")
CALIBRATORS = ("max", "entropy", "percentile")
# TensorRT 10, ONNX Runtime and OpenVINO all take the usual one; the newest is the highest that the converter writes.
OPSET, OLDEST_OPSET, NEWEST_OPSET = 17, 13, 18
# None as a flag's own default tells what was given from what was not.
BATCHES, BATCH_SIZE, CALIBRATOR = 10, 16, "entropy"

# Conditions, and the flags that mean nothing where they do not hold: somebody who gives them counts on an effect.
NEEDS = (
    (
        "--data_type int8",
        lambda args: args.data_type == "int8",
        ("keep_fp", "cal_image_dir", "batches", "calibrator", "cal_cache_file", "cal_data_file", "force_ptq"),
    ),
    (
        "--engine_file FILE",
        lambda args: args.engine_file,
        ("compute_capability", "min_batch_size", "opt_batch_size", "max_workspace_size"),
    ),
    (
        "--engine_file FILE, --gen_ds_config or --triton DIR",
        lambda args: args.engine_file or args.gen_ds_config or args.triton,
        ("max_batch_size",),
    ),
)
ENGINE_BATCHES = ("min_batch_size", "opt_batch_size", "max_batch_size")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-m", "--model", required=True, metavar="FILE", help="trained model (.keras or TAO's .hdf5)")
    parser.add_argument("-o", "--output_file", metavar="FILE", help="graph to write; default: the model's name, .onnx")
    parser.add_argument("-e", "--experiment_spec", metavar="FILE", help="another spec: its NMS and validation data")
    add_key(parser)
    parser.add_argument("-r", "--results_dir", metavar="DIR", help="folder of the report; default: that of the graph")
    graph = parser.add_argument_group("graph")
    graph.add_argument(
        "--nms",
        choices=NMS_KINDS,
        default="standard",
        help="standard: ONNX's operator (default); efficient_nms: TensorRT's plugin, for DeepStream; none: boxes and "
        "scores of all anchors",
    )
    graph.add_argument("--embed_preprocess", action="store_true", help="input: uint8 RGB (batch, height, width, 3)")
    graph.add_argument("--static_batch_size", type=int, default=-1, metavar="N", help="fixed batch (default: any)")
    graph.add_argument(
        "--target_opset", type=int, default=OPSET, metavar="N", help=f"ONNX operator set (default: {OPSET})"
    )
    precision = parser.add_argument_group("precision")
    precision.add_argument("--data_type", choices=DATA_TYPES, default="fp32", help="default: fp32")
    precision.add_argument("--keep_fp", nargs="+", default=[], metavar="NAME", help="int8: layers that stay in float")
    precision.add_argument("--cal_image_dir", metavar="DIR", help="int8: images to calibrate with")
    precision.add_argument("--batches", type=int, metavar="N", help=f"int8: of images (default: {BATCHES})")
    precision.add_argument("--batch_size", type=int, metavar="N", help=f"int8: images of each (default: {BATCH_SIZE})")
    precision.add_argument(
        "--calibrator", choices=CALIBRATORS, help=f"int8: how ranges are found (default: {CALIBRATOR})"
    )
    precision.add_argument(
        "--cal_cache_file",
        metavar="FILE",
        help="int8: TensorRT's calibration cache; read if it is there, else written; ranges of a quantization-aware "
        "model take its place",
    )
    precision.add_argument(
        "--cal_data_file", metavar="FILE", help="int8: prepared images; read if it is there, else written"
    )
    precision.add_argument("--cal_json_file", metavar="FILE", help="write the ranges as JSON")
    precision.add_argument("--force_ptq", action="store_true", help="calibrate a quantization-aware model too")
    proof = parser.add_argument_group("proof")
    proof.add_argument("--max_map_drop", type=float, metavar="D", help="largest loss of mAP, 0.01 for a point")
    proof.add_argument("--skip_proof", action="store_true", help="do not measure mAP before and after")
    engine = parser.add_argument_group("engine")
    engine.add_argument("--engine_file", metavar="FILE", help="TensorRT engine to build")
    engine.add_argument(
        "--compute_capability", metavar="CC", help="build with TensorRT-RTX for this GPU, 8.6 for example; needs no GPU"
    )
    for name, what in zip(ENGINE_BATCHES, ("fewest", "usual number of", "most"), strict=True):
        engine.add_argument(f"--{name}", type=int, metavar="N", help=f"{what} images, default: 1")
    engine.add_argument("--max_workspace_size", type=int, metavar="BYTES", help="memory that building may use")
    runtimes = parser.add_argument_group("runtimes")
    runtimes.add_argument("--gen_ds_config", action="store_true", help="write DeepStream's files beside the graph")
    runtimes.add_argument("--triton", metavar="DIR", help="write a model repository for Triton")
    parser.add_argument("-s", "--strict_type_constraints", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--onnx_route", help=argparse.SUPPRESS)


def check(args: argparse.Namespace) -> Path:
    """Refuses flags that cannot be meant, all at once; returns the graph's path."""
    output = Path(args.output_file or Path(args.model).with_suffix(".onnx")).expanduser()
    problems = [fault] if (fault := model_fault(args.model, "-m/--model")) else []
    if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
        problems.append(InputError("export converts through TensorFlow: unset KERAS_BACKEND, every model opens there"))
    problems += _value_faults(args)
    problems += [
        InputError(f"--{flag} has no effect without {condition}")
        for condition, holds, flags in NEEDS
        for flag in flags
        if getattr(args, flag) and not holds(args)
    ]
    problems += _file_faults(args, output) + _runtime_faults(args, output)
    raise_all(problems)
    _warn(args, output)
    return output


def engine_batches(args: argparse.Namespace) -> tuple[int, int, int]:
    """Fewest, usual number of and most images of a call; what was not given follows from what was."""
    least = args.min_batch_size or 1
    usual = args.opt_batch_size or least
    return least, usual, args.max_batch_size or usual


def static_batch(args: argparse.Namespace) -> int | None:
    """Images of every batch; None: any number."""
    return args.static_batch_size if args.static_batch_size > 0 else None


def _value_faults(args: argparse.Namespace) -> list[InputError]:
    problems = []
    if not OLDEST_OPSET <= args.target_opset <= NEWEST_OPSET:
        problems.append(InputError(f"--target_opset is {args.target_opset}, allowed: {OLDEST_OPSET} to {NEWEST_OPSET}"))
    if args.static_batch_size == 0 or args.static_batch_size < -1:
        problems.append(InputError(f"--static_batch_size is {args.static_batch_size}; 1 or more, or -1 for any number"))
    for name in ("batches", "batch_size", *ENGINE_BATCHES):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            problems.append(InputError(f"--{name} is {getattr(args, name)}; at least 1 is needed"))
    given = {name: getattr(args, name) for name in ENGINE_BATCHES if getattr(args, name) is not None}
    if list(given.values()) != sorted(given.values()):
        shown = ", ".join(f"--{name} {value}" for name, value in given.items())
        problems.append(InputError(f"{shown}: none may be less than the one before"))
    if given and static_batch(args):
        flags = ", ".join(f"--{name}" for name in given)
        problems.append(InputError(f"{flags}: --static_batch_size fixes the batch", hint="leave one of them out"))
    if args.max_map_drop is not None and not args.max_map_drop >= 0:
        problems.append(InputError(f"--max_map_drop is {args.max_map_drop:g}; 0 or more is needed"))
    if args.max_map_drop is not None and args.skip_proof:
        problems.append(InputError("--max_map_drop needs the proof that --skip_proof leaves out"))
    if args.max_workspace_size is not None and args.max_workspace_size < 1:
        problems.append(InputError(f"--max_workspace_size is {args.max_workspace_size}; bytes, at least 1"))
    return problems


def _file_faults(args: argparse.Namespace, output: Path) -> list[InputError]:
    """Names that no file can be written under, or more than one."""
    problems = []
    if output.suffix not in (".onnx", ".etlt"):
        problems.append(InputError(f"-o/--output_file {output}: a graph is .onnx, or .etlt with a key"))
    if output.suffix == ".etlt" and args.key is None:
        problems.append(InputError(f"-o/--output_file {output}: an .etlt is encrypted", hint="-k KEY, or an .onnx"))
    files = {"-o/--output_file": output}
    for flag in ("engine_file", "cal_cache_file", "cal_data_file", "cal_json_file"):
        if getattr(args, flag):
            files[f"--{flag}"] = Path(getattr(args, flag)).expanduser()
    for flag, path in files.items():
        if path.is_dir():
            problems.append(InputError(f"{flag} {path}: is a folder; the name of a file is needed"))
    report = Path(args.results_dir or output.parent).expanduser()
    folders = {flag: path.parent for flag, path in files.items()}
    if args.results_dir:
        folders["-r/--results_dir"] = report
    if args.triton:
        folders["--triton"] = Path(args.triton).expanduser()
    problems += [fault for each in folders.items() if (fault := folder_fault(*each))]
    if args.engine_file:
        files["the JSON file of --engine_file"] = Path(f"{files['--engine_file']}.json")
    if args.cal_cache_file:
        files["the JSON file of --cal_cache_file"] = Path(f"{files['--cal_cache_file']}.json")
    taken: dict[Path, str] = {Path(args.model).expanduser().resolve(): "-m/--model"}
    for flag, path in {"the report of the export": report / "export.json", **files}.items():
        other = taken.setdefault(path.resolve(), flag)
        if other != flag:
            problems.append(InputError(f"{path} is named twice: {other} and {flag}", hint="give each another name"))
    return problems


def _runtime_faults(args: argparse.Namespace, output: Path) -> list[InputError]:
    """Kinds of graphs that a runtime does not take."""
    problems = []
    encrypted = output.suffix == ".etlt"
    if args.gen_ds_config and args.nms != "efficient_nms":
        problems.append(InputError("--gen_ds_config: DeepStream wants NMS in the graph", hint="--nms efficient_nms"))
    if args.gen_ds_config and args.embed_preprocess:
        problems.append(InputError("--gen_ds_config: nvinfer preprocesses itself", hint="leave out --embed_preprocess"))
    if args.gen_ds_config and encrypted:
        problems.append(InputError("--gen_ds_config: DeepStream reads no encrypted graph", hint="-o FILE.onnx"))
    if args.triton and encrypted and not args.engine_file:
        problems.append(InputError("--triton: Triton reads no encrypted graph", hint="-o FILE.onnx"))
    if args.triton and args.nms == "efficient_nms" and not args.engine_file:
        problems.append(
            InputError(
                "--triton: NMS of this kind runs in an engine only", hint="--engine_file FILE, or --nms standard"
            )
        )
    if args.triton and args.compute_capability:
        problems.append(
            InputError(
                "--triton: Triton loads no engine of TensorRT-RTX, which --compute_capability builds",
                hint="leave out --triton, or --engine_file and --compute_capability",
            )
        )
    if args.compute_capability and args.nms != "none":
        problems.append(InputError("--compute_capability: TensorRT-RTX has no NMS", hint="--nms none"))
    return problems


def _warn(args: argparse.Namespace, output: Path) -> None:
    """Says what is taken, since it does no harm, and has no effect or not the one that might be expected."""
    if args.batch_size is not None and args.data_type != "int8":  # TAO's notebooks give it with every data type
        warn("--batch_size has no effect without --data_type int8")
    if args.strict_type_constraints:
        warn("-s/--strict_type_constraints has no effect: the graph says every type")
    if args.onnx_route:
        warn("--onnx_route has no effect: there is one")
    if output.suffix == ".etlt" and args.engine_file:
        warn(f"{output} is encrypted, the engine in {args.triton or args.engine_file} is not")

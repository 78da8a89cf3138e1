"""`ssd export`: a trained detector as ONNX, in float32, float16 or INT8; an engine; files for DeepStream and Triton."""

import argparse
import os
import tempfile
from pathlib import Path

from ssd.commands.flags import add_key, model_fault
from ssd.console import say, warn
from ssd.errors import InputError, raise_all

DATA_TYPES = ("fp32", "fp16", "int8")
# As in ssd.deploy.export_graph and ssd.quantization.calibration, which are too slow to import for a help text.
NMS_KINDS = ("standard", "efficient_nms", "none")
CALIBRATORS = ("max", "entropy", "percentile")
# The highest that TensorRT 10, ONNX Runtime and OpenVINO all take.
OPSET, OLDEST_OPSET, NEWEST_OPSET = 17, 13, 18


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
    precision.add_argument("--batches", type=int, default=10, metavar="N", help="int8: of images (default: 10)")
    precision.add_argument("--batch_size", type=int, default=16, metavar="N", help="int8: images of each (default: 16)")
    precision.add_argument(
        "--calibrator", choices=CALIBRATORS, default="entropy", help="int8: how ranges are found (default: entropy)"
    )
    precision.add_argument(
        "--cal_cache_file", metavar="FILE", help="int8: TensorRT's calibration cache; read if it is there, else written"
    )
    precision.add_argument(
        "--cal_data_file", metavar="FILE", help="int8: prepared images; read if it is there, else written"
    )
    precision.add_argument("--cal_json_file", metavar="FILE", help="write the ranges of a quantization-aware model")
    precision.add_argument("--force_ptq", action="store_true", help="calibrate a quantization-aware model too")
    proof = parser.add_argument_group("proof")
    proof.add_argument("--max_map_drop", type=float, metavar="D", help="largest loss of mAP, 0.01 for a point")
    proof.add_argument("--skip_proof", action="store_true", help="do not measure mAP before and after")
    engine = parser.add_argument_group("engine")
    engine.add_argument("--engine_file", metavar="FILE", help="TensorRT engine to build")
    engine.add_argument(
        "--compute_capability", metavar="CC", help="build with TensorRT-RTX for this GPU, 8.6 for example; needs no GPU"
    )
    for name, what in (("min", "fewest"), ("opt", "usual number of"), ("max", "most")):
        engine.add_argument(f"--{name}_batch_size", type=int, default=1, metavar="N", help=f"{what} images, default: 1")
    engine.add_argument("--max_workspace_size", type=int, metavar="BYTES", help="memory that building may use")
    runtimes = parser.add_argument_group("runtimes")
    runtimes.add_argument("--gen_ds_config", action="store_true", help="write DeepStream's files beside the graph")
    runtimes.add_argument("--triton", metavar="DIR", help="write a model repository for Triton")
    parser.add_argument("-s", "--strict_type_constraints", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--onnx_route", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> None:
    output = _check(args)
    _check_inputs(args)
    from ssd.deploy import export_graph, proof
    from ssd.deploy.encryption import plain_file
    from ssd.models.checkpoint import load_model
    from ssd.spec import load_experiment

    given = load_experiment(args.experiment_spec, "export") if args.experiment_spec else None
    with plain_file(args.model, args.key) as path:
        artifact = load_model(path, verb="export", spec=given)
    spec = _spec(given, artifact, args.model)
    if args.data_type == "int8":
        _check_ranges(args, artifact.model)
    source = export_graph.prepare(artifact, spec)
    pixels, batch = args.embed_preprocess, args.static_batch_size if args.static_batch_size > 0 else None
    plain = export_graph.float_graph(source, opset=args.target_opset, batch=batch, pixels=pixels)
    exported, ranges = _precise(args, plain, source)

    def graph(proto, nms, data_type):
        return export_graph.finished(proto, source, nms=nms, data_type=data_type, pixels=pixels)

    rows = []
    if not args.skip_proof:
        # What TensorRT's plugin selects, the network's own boxes and scores must prove.
        nms = "none" if args.nms == "efficient_nms" else args.nms
        graphs = {
            f"ONNX {kind}": graph(proto, nms, kind) for kind, proto in (("fp32", plain), (args.data_type, exported))
        }
        rows = proof.prove(artifact.model, graphs, spec, required=args.max_map_drop is not None)
    if rows:
        say(proof.text(rows))
    if rows and args.max_map_drop is not None:
        proof.judge(rows, args.max_map_drop, ranges, plain, spec, pixels=pixels)
    _write(args, output, graph(exported, args.nms, args.data_type), source, ranges, rows)


def _check_inputs(args: argparse.Namespace) -> None:
    """Looks at the files that a long export would stumble over at its end."""
    if args.engine_file:
        from ssd.deploy.tensorrt_engine import builder_module, capability_name

        _, trt = builder_module(args.compute_capability)
        if args.compute_capability:
            capability_name(args.compute_capability, trt)
    if args.data_type != "int8":
        return
    if args.cal_image_dir:
        from ssd.data.calibration import choose_images

        choose_images(args.cal_image_dir, args.batches * args.batch_size, seed=0)
    if args.cal_cache_file and Path(args.cal_cache_file).expanduser().exists():
        from ssd.quantization.calibration_cache import read_cache

        read_cache(args.cal_cache_file)


def _spec(given, artifact, path: str):
    """The model's spec; NMS settings and validation data of `-e` where it is given."""
    if given is None or artifact.spec is given:
        return artifact.spec
    from ssd.deploy.predictors import combine

    return combine(given, artifact.spec, path)


def _check_ranges(args, model) -> None:
    """Whether there is anything to find INT8 ranges with, before the graph is made."""
    from ssd.quantization.rewrite import is_quantized

    files = [Path(name).expanduser() for name in (args.cal_cache_file, args.cal_data_file) if name]
    known = is_quantized(model) and not args.force_ptq
    if not known and not args.cal_image_dir and not any(file.exists() for file in files):
        raise InputError(
            "--data_type int8 needs ranges: none are in the model, and no images were named to find them with",
            hint="--cal_image_dir DIR; or --cal_cache_file of an earlier export; or train with enable_qat: true",
        )


def _precise(args, plain, source):
    """The graph in the precision that was asked for, and the ranges of one in INT8."""
    if args.data_type == "fp16":
        from ssd.deploy.onnx_half import to_half

        return to_half(plain), None
    if args.data_type == "fp32":
        return plain, None
    from ssd.deploy.ranges import Calibration, find_ranges
    from ssd.quantization.qdq import insert_qdq

    cache, prepared = (Path(name).expanduser() if name else None for name in (args.cal_cache_file, args.cal_data_file))
    how = Calibration(
        images=args.cal_image_dir,
        batches=args.batches,
        batch_size=args.batch_size,
        method=args.calibrator,
        cache=cache,
        prepared=prepared,
        keep_float=tuple(args.keep_fp),
        force=args.force_ptq,
    )
    ranges = find_ranges(source, plain, how, pixels=args.embed_preprocess)
    return insert_qdq(plain, ranges, args.keep_fp), ranges


def _write(args, output: Path, proto, source, ranges, rows) -> None:
    import json

    from ssd.deploy.encryption import encrypt_file
    from ssd.deploy.export_graph import summary
    from ssd.files import results_folder, whole_file, write_text
    from ssd.status import StatusLog

    folder = results_folder(args.results_dir or output.parent)
    results_folder(output.parent, "-o/--output_file")
    status = StatusLog(folder)
    try:
        with tempfile.TemporaryDirectory(prefix="ssd-") as scratch:
            plain = Path(scratch) / "graph.onnx"
            plain.write_bytes(proto.SerializeToString())
            # What may fail comes before the graph appears under its name.
            engine = _engine(args, plain)
            if args.key is not None and output.suffix == ".etlt":
                encrypt_file(plain, output, args.key)
            else:
                with whole_file(output) as temporary:
                    temporary.write_bytes(plain.read_bytes())
            written = _runtimes(args, output, plain, proto, source, engine)
        if args.cal_json_file:
            scales = {"tensor_scales": (ranges or source.quantization).amax}
            write_text(Path(args.cal_json_file).expanduser(), json.dumps(scales, indent=2) + "\n")
        facts = {
            "model": str(args.model),
            "graph": str(output),
            "data_type": args.data_type,
            "nms": args.nms,
            "opset": args.target_opset,
            "file_bytes": output.stat().st_size,
            "proof": [vars(row) for row in rows],
            "ranges": ranges.amax if ranges else None,
            "engine": engine,
        }
        write_text(folder / "export.json", json.dumps(facts, indent=2) + "\n")
    except KeyboardInterrupt:
        status.write("FAILURE", "Export was interrupted")
        raise
    except Exception as error:
        status.write("FAILURE", str(error))
        raise
    count, size = source.network.count_params() / 1e6, output.stat().st_size / 2**20
    status.write("SUCCESS", "Export complete.", param_count=count, size=size)
    status.write("SUCCESS", "Export finished successfully.")
    say(summary(proto))
    say(f"graph: {output} ({args.data_type}, NMS {args.nms}, {size:.1f} MiB)")
    for line in written:
        say(line)
    say(f"results: {folder}")


def _engine(args, plain: Path) -> dict | None:
    if not args.engine_file:
        return None
    from dataclasses import asdict

    from ssd.deploy.tensorrt_engine import Batches, build_engine

    batches = Batches(args.min_batch_size, args.opt_batch_size, args.max_batch_size)
    sidecar = build_engine(
        plain,
        Path(args.engine_file).expanduser(),
        batches=batches,
        workspace=args.max_workspace_size,
        compute_capability=args.compute_capability,
    )
    return {key: value for key, value in asdict(sidecar).items() if key != "metadata"}


def _runtimes(args, output: Path, plain: Path, proto, source, engine) -> list[str]:
    """Writes what DeepStream and Triton want; a line for each."""
    from ssd.deploy.onnx_metadata import of_graph

    lines, metadata = [], of_graph(proto, str(output))
    if engine is not None:
        lines.append(
            f"engine: {args.engine_file} ({engine['builder']} {engine['builder_version']}, {engine['built_for']})"
        )
    if args.gen_ds_config:
        from ssd.deploy.deepstream import write_deepstream

        nms = source.spec.nms
        write_deepstream(
            output.parent,
            output.name,
            metadata,
            confidence_threshold=nms.confidence_threshold,
            top_k=nms.top_k,
            engine_name=_beside(output, args.engine_file) if engine else None,
            calibration_cache=_beside(output, args.cal_cache_file),
            max_batch=args.max_batch_size,
        )
        lines.append(f"DeepStream: {output.parent / 'nvinfer_config.txt'}")
    if args.triton:
        from ssd.deploy.triton import write_triton

        file = Path(args.engine_file).expanduser() if engine else plain
        name = output.stem
        write_triton(
            Path(args.triton).expanduser(), name, file, metadata, _outputs(proto), max_batch=args.max_batch_size
        )
        lines.append(f"Triton: {Path(args.triton) / name}")
    return lines


def _beside(output: Path, file: str | None) -> str | None:
    """A file as seen from the folder of the graph."""
    return os.path.relpath(Path(file).expanduser(), output.parent) if file else None


def _outputs(proto) -> list[tuple[str, str, tuple[int, ...]]]:
    """Name, Triton's type and dimensions without the batch of each output."""
    import onnx

    kinds = {onnx.TensorProto.FLOAT: "FP32", onnx.TensorProto.INT32: "INT32", onnx.TensorProto.INT64: "INT64"}
    found = []
    for value in proto.graph.output:
        shape = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)[1:]
        found.append((value.name, kinds[value.type.tensor_type.elem_type], shape))
    return found


def _check(args: argparse.Namespace) -> Path:
    """Refuses flags that cannot be meant, all at once; returns the graph's path."""
    problems = [fault] if (fault := model_fault(args.model)) else []
    if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
        problems.append(InputError("export converts through TensorFlow: unset KERAS_BACKEND, every model opens there"))
    output = Path(args.output_file or Path(args.model).with_suffix(".onnx")).expanduser()
    if output.suffix not in (".onnx", ".etlt"):
        problems.append(InputError(f"-o/--output_file {output}: a graph is .onnx, or .etlt with a key"))
    if output.suffix == ".etlt" and args.key is None:
        problems.append(InputError(f"-o/--output_file {output}: an .etlt is encrypted", hint="-k KEY, or an .onnx"))
    if output.is_dir():
        problems.append(InputError(f"-o/--output_file {output}: is a folder; the name of a file is needed"))
    if not OLDEST_OPSET <= args.target_opset <= NEWEST_OPSET:
        problems.append(InputError(f"--target_opset is {args.target_opset}, allowed: {OLDEST_OPSET} to {NEWEST_OPSET}"))
    if args.static_batch_size == 0 or args.static_batch_size < -1:
        problems.append(InputError(f"--static_batch_size is {args.static_batch_size}; 1 or more, or -1 for any number"))
    for name in ("batches", "batch_size", "min_batch_size", "opt_batch_size", "max_batch_size"):
        if getattr(args, name) < 1:
            problems.append(InputError(f"--{name} is {getattr(args, name)}; at least 1 is needed"))
    args.opt_batch_size = max(args.opt_batch_size, args.min_batch_size)
    args.max_batch_size = max(args.max_batch_size, args.opt_batch_size)
    if args.max_map_drop is not None and not args.max_map_drop >= 0:
        problems.append(InputError(f"--max_map_drop is {args.max_map_drop:g}; 0 or more is needed"))
    if args.max_map_drop is not None and args.skip_proof:
        problems.append(InputError("--max_map_drop needs the proof that --skip_proof leaves out"))
    if args.max_workspace_size is not None and args.max_workspace_size < 1:
        problems.append(InputError(f"--max_workspace_size is {args.max_workspace_size}; bytes, at least 1"))
    if args.compute_capability and not args.engine_file:
        problems.append(InputError("--compute_capability says what an engine is for", hint="--engine_file FILE"))
    int8 = args.data_type == "int8"
    for flag, given in (("--keep_fp", args.keep_fp), ("--cal_image_dir", args.cal_image_dir)):
        if given and not int8:
            problems.append(InputError(f"{flag} is for INT8", hint="--data_type int8"))
    problems += _runtime_faults(args)
    raise_all(problems)
    if args.strict_type_constraints:
        warn("-s/--strict_type_constraints has no effect: the graph says every type")
    if args.onnx_route:
        warn("--onnx_route has no effect: there is one")
    return output


def _runtime_faults(args: argparse.Namespace) -> list[InputError]:
    """Kinds of graphs that a runtime does not take."""
    problems = []
    if args.gen_ds_config and args.nms != "efficient_nms":
        problems.append(InputError("--gen_ds_config: DeepStream wants NMS in the graph", hint="--nms efficient_nms"))
    if args.gen_ds_config and args.embed_preprocess:
        problems.append(InputError("--gen_ds_config: nvinfer preprocesses itself", hint="leave out --embed_preprocess"))
    if args.triton and args.nms == "efficient_nms" and not args.engine_file:
        problems.append(
            InputError(
                "--triton: NMS of this kind runs in an engine only", hint="--engine_file FILE, or --nms standard"
            )
        )
    if args.compute_capability and args.nms != "none":
        problems.append(InputError("--compute_capability: TensorRT-RTX has no NMS", hint="--nms none"))
    return problems

"""`ssd export`: a trained detector as ONNX, in float32, float16 or INT8; an engine; files for DeepStream and Triton."""

import argparse
import os
import tempfile
from pathlib import Path

from ssd.commands import export_flags
from ssd.commands.export_flags import add_arguments, engine_batches, static_batch
from ssd.console import say, warn
from ssd.errors import InputError
from ssd.status import noting_interruption

__all__ = ["add_arguments", "run"]

# Where ranges come from -> flags that then have no effect, and why.
IMAGES = ("cal_image_dir", "batches", "batch_size")
UNUSED = {
    "training": ((*IMAGES, "cal_data_file", "calibrator"), "the model knows its ranges (--force_ptq calibrates)"),
    "cache": ((*IMAGES, "cal_data_file", "calibrator"), "the ranges are in --cal_cache_file"),
    "tensors": (IMAGES, "the images are in --cal_data_file"),
    "images": ((), ""),
}


def run(args: argparse.Namespace) -> None:
    output = export_flags.check(args)
    with noting_interruption(args.results_dir or output.parent, "Export"):
        _export(args, output)


def _export(args: argparse.Namespace, output: Path) -> None:
    _check_inputs(args, output)
    from ssd.deploy import export_graph, proof
    from ssd.encryption import plain_file
    from ssd.models.checkpoint import load_model
    from ssd.spec import load_experiment

    given = load_experiment(args.experiment_spec, "export") if args.experiment_spec else None
    with plain_file(args.model, args.key, encrypts=output.suffix == ".etlt") as path:
        artifact = load_model(path, verb="export", spec=given)
    spec = _spec(given, artifact, args.model)
    _check_model(args, output, artifact.model, spec)
    source = export_graph.prepare(artifact, spec)
    pixels = args.embed_preprocess
    plain = export_graph.float_graph(source, opset=args.target_opset, batch=static_batch(args), pixels=pixels)
    free = plain
    if static_batch(args) and args.data_type == "int8":  # ranges come from batches of other sizes
        free = export_graph.float_graph(source, opset=args.target_opset, batch=None, pixels=pixels)
    exported, ranges = _precise(args, plain, free, source)

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
        proof.judge(rows, args.max_map_drop, ranges, free, spec, pixels=pixels, kept=args.keep_fp)
    _write(args, output, graph(exported, args.nms, args.data_type), source, ranges, rows)


def _check_inputs(args: argparse.Namespace, output: Path) -> None:
    """Looks at the files that a long export would stumble over at its end."""
    if args.engine_file:
        from ssd.deploy.tensorrt_engine import builder_module, capability_name

        _, trt = builder_module(args.compute_capability)
        if args.compute_capability:
            capability_name(args.compute_capability, trt)
    if args.triton:
        from ssd.deploy.triton import check_target

        check_target(Path(args.triton).expanduser(), output.stem, Path(args.engine_file or output))
    if args.cal_cache_file and Path(args.cal_cache_file).expanduser().exists():
        from ssd.quantization.calibration_cache import read_cache

        read_cache(args.cal_cache_file)


def _spec(given, artifact, path: str):
    """The model's spec; NMS settings and validation data of `-e` where it is given."""
    if given is None or artifact.spec is given:
        return artifact.spec
    from ssd.deploy.predictors import combine

    return combine(given, artifact.spec, path)


def _check_model(args: argparse.Namespace, output: Path, model, spec) -> None:
    """Whether this model can become what was asked for, before the graph is made."""
    from ssd.quantization.rewrite import is_quantized

    if args.gen_ds_config:
        from ssd.deploy.deepstream import check_folder

        check_folder(output.parent, spec.classes)
    if args.force_ptq and not is_quantized(model):
        warn("--force_ptq has no effect: the model has no ranges of its own")
    if args.data_type != "int8":
        if args.cal_json_file and not is_quantized(model):
            raise InputError(
                "--cal_json_file: the model has no ranges, it is not quantization-aware",
                hint="--data_type int8 finds some; or leave it out",
            )
        return
    from ssd.data.calibration import choose_images
    from ssd.deploy.ranges import origin

    how = _calibration(args)
    source = origin(is_quantized(model), how)
    if source == "images":
        choose_images(how.images, how.batches * how.batch_size, seed=0)
    flags, reason = UNUSED[source]
    if unused := [f"--{flag}" for flag in flags if getattr(args, flag)]:
        warn(f"{', '.join(unused)}: not used, {reason}")


def _calibration(args: argparse.Namespace):
    from ssd.deploy.ranges import Calibration

    cache, prepared = (Path(name).expanduser() if name else None for name in (args.cal_cache_file, args.cal_data_file))
    return Calibration(
        images=args.cal_image_dir,
        batches=args.batches or export_flags.BATCHES,
        batch_size=args.batch_size or export_flags.BATCH_SIZE,
        method=args.calibrator or export_flags.CALIBRATOR,
        cache=cache,
        prepared=prepared,
        keep_float=tuple(args.keep_fp),
        force=args.force_ptq,
    )


def _precise(args, plain, free, source):
    """The graph in the precision that was asked for, and the ranges of one in INT8.

    Args:
        free: as `plain`, for any number of images.
    """
    if args.data_type == "fp16":
        from ssd.deploy.onnx_half import to_half

        return to_half(plain), None
    if args.data_type == "fp32":
        return plain, None
    from ssd.deploy.ranges import find_ranges
    from ssd.quantization.qdq import insert_qdq

    ranges = find_ranges(source, free, _calibration(args), pixels=args.embed_preprocess)
    return insert_qdq(plain, ranges, args.keep_fp), ranges


def _write(args, output: Path, proto, source, ranges, rows) -> None:
    import json

    from ssd.deploy.export_graph import summary
    from ssd.encryption import encrypt_file
    from ssd.files import results_folder, whole_file, write_text
    from ssd.status import StatusLog

    results_folder(output.parent, "-o/--output_file")  # first: without -r it is the report's folder as well
    folder = results_folder(args.results_dir or output.parent)
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

    sidecar = build_engine(
        plain,
        Path(args.engine_file).expanduser(),
        batches=Batches(*engine_batches(args)),
        workspace=args.max_workspace_size,
        compute_capability=args.compute_capability,
    )
    return {key: value for key, value in asdict(sidecar).items() if key != "metadata"}


def _runtimes(args, output: Path, plain: Path, proto, source, engine) -> list[str]:
    """Writes what DeepStream and Triton want; a line for each."""
    from ssd.deploy.onnx_metadata import of_graph

    lines, metadata = [], of_graph(proto, str(output))
    static, (_, _, most) = static_batch(args), engine_batches(args)
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
            max_batch=static or most,
        )
        lines.append(f"DeepStream: {output.parent / 'nvinfer_config.txt'}")
    if args.triton:
        from ssd.deploy.triton import write_triton

        file = Path(args.engine_file).expanduser() if engine else plain
        name = output.stem
        write_triton(
            Path(args.triton).expanduser(), name, file, metadata, _outputs(proto), max_batch=most, static_batch=static
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

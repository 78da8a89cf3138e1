"""ONNX Runtime on an exported graph."""

import os
from pathlib import Path

from ssd.console import warn
from ssd.deploy.graph_predictor import Runner
from ssd.deploy.onnx_metadata import Metadata, parse
from ssd.errors import InputError, ModelError

# What `--provider` names, in ONNX Runtime's words; each falls back on the CPU for operators that it does not have.
PROVIDERS = {
    "cpu": ("CPUExecutionProvider",),
    "cuda": ("CUDAExecutionProvider", "CPUExecutionProvider"),
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"),
}


def open_onnx(path: str | os.PathLike, provider: str | None = None) -> tuple[Runner, Metadata]:
    """A graph that `ssd export` wrote, ready to run.

    Args:
        provider: a name in `PROVIDERS`; None: CUDA where there is one, else the CPU.

    Raises:
        ModelError: damaged, not exported by this toolkit, or with NMS that only TensorRT runs.
        InputError: the provider is not there, or does not start.
    """
    import onnxruntime

    available = onnxruntime.get_available_providers()
    named = provider is not None
    if not named:
        provider = "cuda" if PROVIDERS["cuda"][0] in available else "cpu"
    if PROVIDERS[provider][0] not in available:
        raise InputError(
            f"--provider {provider}: this ONNX Runtime has {', '.join(available)}",
            hint="pip install onnxruntime-gpu has CUDA and TensorRT",
        )
    properties = _properties(Path(path))
    metadata = parse(properties, str(path))
    if metadata.nms == "efficient_nms":
        raise ModelError(
            "its NMS is the plugin EfficientNMS_TRT, which only TensorRT runs",
            where=str(path),
            hint="build an engine of it, or export with --nms standard or --nms none",
        )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(os.fspath(path), options, providers=list(PROVIDERS[provider]))
    except Exception as error:  # onnxruntime raises kinds of its own, without a common base
        raise ModelError(f"ONNX Runtime cannot open it: {_first_line(error)}", where=str(path)) from error
    # A library of the GPU's that is missing or of another version makes ONNX Runtime take the next provider.
    wanted, taken = PROVIDERS[provider][0], session.get_providers()[0]
    if wanted != taken:
        fault = f"ONNX Runtime has {wanted} and cannot start it here"
        if named:
            raise InputError(f"--provider {provider}: {fault}", hint="its GPU libraries are missing or do not fit")
        warn(f"{fault}: {taken} runs the graph")
    (source,) = session.get_inputs()
    names = [output.name for output in session.get_outputs()]
    batch = source.shape[0] if isinstance(source.shape[0], int) else None

    def run(images):
        return dict(zip(names, session.run(names, {source.name: images}), strict=True))

    return Runner(run, batch), metadata


def _properties(path: Path) -> dict[str, str]:
    """The metadata of an ONNX file, read without running anything."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        if path.stat().st_size == 0:
            raise ModelError("empty", where=str(path))
        proto = onnx.load(os.fspath(path), load_external_data=False)
    except FileNotFoundError as error:
        raise ModelError("no such model file", where=str(path)) from error
    except (DecodeError, OSError) as error:
        raise ModelError("damaged: not a whole ONNX graph", where=str(path)) from error
    return {entry.key: entry.value for entry in proto.metadata_props}


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__

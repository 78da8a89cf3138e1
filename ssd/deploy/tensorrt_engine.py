"""TensorRT engines from exported graphs: one way for TensorRT (10 and later) and for TensorRT-RTX.

TensorRT builds on the machine whose GPU will run the engine. TensorRT-RTX builds ahead of time for a named compute
capability, on machines without a GPU too; it has no NMS. Both take strongly typed networks: precision is what the graph
says. Beside an engine lies a JSON file with what it was built from and for.
"""

import hashlib
import importlib
import importlib.util
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType

from ssd.console import log, progress, warn
from ssd.deploy.onnx_metadata import KEY, Metadata, parse
from ssd.errors import InputError, ModelError, RunError
from ssd.files import whole_file, write_text

PYTHON_MODULES = {"tensorrt": ("tensorrt",), "tensorrt_rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings")}


@dataclass(frozen=True)
class Batches:
    """Images of a call that an engine is made for, where the graph leaves their number free."""

    least: int = 1
    usual: int = 1
    most: int = 1


@dataclass(frozen=True)
class Sidecar:
    """What the JSON file beside an engine says."""

    engine_sha256: str
    onnx_sha256: str
    builder: str  # "tensorrt" or "tensorrt_rtx"
    builder_version: str
    built_for: str  # a GPU's name, or compute capabilities
    batches: Batches
    metadata: dict  # of the graph, see `ssd.deploy.onnx_metadata`


def builder_module(compute_capability: str | None) -> tuple[str, ModuleType]:
    """The library that builds: TensorRT-RTX for a named compute capability, TensorRT for this machine's GPU.

    Raises:
        InputError: it is not installed.
    """
    name = "tensorrt_rtx" if compute_capability else "tensorrt"
    if module := installed(name):
        return name, module
    if compute_capability:
        raise InputError("TensorRT-RTX is not installed", hint="pip install 'ssd[tensorrt-rtx]'")
    raise InputError(
        "TensorRT is not installed",
        hint="pip install 'ssd[tensorrt]', on a machine with a GPU; --compute_capability builds without one",
    )


def installed(name: str) -> ModuleType | None:
    """The Python module of "tensorrt" or "tensorrt_rtx"; None where it is not installed."""
    for module in PYTHON_MODULES[name]:
        if importlib.util.find_spec(module) is not None:
            return importlib.import_module(module)
    return None


def build_engine(
    onnx_path: str | os.PathLike,
    engine_path: str | os.PathLike,
    *,
    batches: Batches,
    workspace: int | None = None,
    compute_capability: str | None = None,
) -> Sidecar:
    """Builds the engine of an exported graph and writes it, with its JSON file, whole or not at all.

    Args:
        onnx_path: as `ssd export` writes it.
        batches: for a graph that leaves their number free.
        workspace: bytes that the builder may use; None: its default.
        compute_capability: for example "8.6" or "SM86".

    Raises:
        InputError: no builder, no such compute capability, a graph that the builder does not take.
        RunError: building failed.
    """
    name, trt = builder_module(compute_capability)
    content = Path(onnx_path).read_bytes()
    metadata = _metadata(content, str(onnx_path))
    if name == "tensorrt_rtx" and metadata.nms != "none":
        raise InputError(f"TensorRT-RTX has no NMS, the graph's is {metadata.nms}", hint="export with --nms none")
    logger, messages = start(trt)
    try:
        builder = trt.Builder(logger)
    except Exception as error:  # TypeError from the binding, where CUDA is missing
        raise RunError(
            f"TensorRT cannot start: {_reason(messages, error)}", hint="it needs a GPU and its driver"
        ) from error
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(content):
        error = parser.get_error(0)
        node = f"node {error.node_name()}: " if error.node_name() else ""
        raise InputError(f"{name} cannot take the graph: {node}{error.desc()}", where=str(onnx_path))
    config = builder.create_builder_config()
    if workspace:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace)
    batches = _profile(builder, network, config, batches)
    built_for = _target(trt, config, compute_capability)
    with _progress(trt, config):
        engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise RunError(f"{name} cannot build the engine: {_reason(messages)}", where=str(onnx_path))
    engine = bytes(engine)
    sidecar = Sidecar(
        engine_sha256=hashlib.sha256(engine).hexdigest(),
        onnx_sha256=hashlib.sha256(content).hexdigest(),
        builder=name,
        builder_version=trt.__version__,
        built_for=built_for,
        batches=batches,
        metadata=vars(metadata),
    )
    with whole_file(engine_path) as temporary:
        temporary.write_bytes(engine)
    write_text(sidecar_path(engine_path), json.dumps(asdict(sidecar), indent=2) + "\n")
    return sidecar


def sidecar_path(engine_path: str | os.PathLike) -> Path:
    """Where the JSON file of an engine lies."""
    return Path(f"{engine_path}.json")


def read_sidecar(engine_path: str | os.PathLike) -> tuple[Sidecar, Metadata]:
    """What lies beside an engine, checked against the engine. Warns of a newer graph of its name.

    Raises:
        ModelError: no sidecar, or one of another engine.
    """
    path, where = sidecar_path(engine_path), str(engine_path)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        values["batches"] = Batches(**values["batches"])
        sidecar = Sidecar(**values)
        metadata = parse({KEY: json.dumps(sidecar.metadata)}, str(path))
    except FileNotFoundError as error:
        raise ModelError(
            f"{path.name} is not beside it: what the engine was built from is unknown",
            where=where,
            hint="engines that `ssd export --engine_file` builds have one; copy both files",
        ) from error
    except (ValueError, TypeError, KeyError) as error:
        raise ModelError(f"damaged: {error}", where=str(path)) from error
    if hashlib.sha256(Path(engine_path).read_bytes()).hexdigest() != sidecar.engine_sha256:
        raise ModelError(f"{path.name} is of another engine", where=where, hint="copy engine and JSON file together")
    graph = Path(engine_path).with_suffix(".onnx")
    if graph.is_file() and hashlib.sha256(graph.read_bytes()).hexdigest() != sidecar.onnx_sha256:
        warn(f"{where} was built from another graph than the {graph.name} beside it: is it an old one?")
    return sidecar, metadata


def capability_name(text: str, trt: ModuleType) -> str:
    """`8.6`, `86` or `SM86` as the builder names it.

    Raises:
        InputError: none that it builds for.
    """
    digits = "".join(character for character in text if character.isdigit())
    known = [name for name in trt.ComputeCapability.__members__ if name.startswith("SM")]
    if f"SM{digits}" not in known:
        names = ", ".join(f"{name[2:-1]}.{name[-1]}" for name in known)
        raise InputError(f"--compute_capability {text}: this TensorRT-RTX builds for {names}")
    return f"SM{digits}"


def _metadata(content: bytes, where: str) -> Metadata:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        proto = onnx.load_model_from_string(content)
    except DecodeError as error:
        raise ModelError("damaged: not a whole ONNX graph", where=where) from error
    return parse({entry.key: entry.value for entry in proto.metadata_props}, where)


def _profile(builder, network, config, batches: Batches) -> Batches:
    """Sets the range of batch sizes where the graph leaves it free; what the engine takes in the end."""
    source = network.get_input(0)
    shape = tuple(source.shape)
    if shape[0] != -1:
        return Batches(shape[0], shape[0], shape[0])
    profile = builder.create_optimization_profile()
    sizes = [(number, *shape[1:]) for number in (batches.least, batches.usual, batches.most)]
    profile.set_shape(source.name, *sizes)
    config.add_optimization_profile(profile)
    return batches


def _target(trt: ModuleType, config, compute_capability: str | None) -> str:
    if compute_capability:
        name = capability_name(compute_capability, trt)
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, name), 0)
        return name
    from ssd.deploy.cuda import device_name

    return device_name()


def start(trt: ModuleType) -> tuple[object, list[str]]:
    """A logger for the library, with its plugins at hand, and the list that its errors end up in."""
    messages: list[str] = []

    class Logger(trt.ILogger):
        def __init__(self):
            trt.ILogger.__init__(self)

        def log(self, severity, text):
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                messages.append(text)
            log.debug("%s", text)

    logger = Logger()
    if hasattr(trt, "init_libnvinfer_plugins"):  # TensorRT-RTX has none
        # EfficientNMS is looked up when a graph is parsed, and again when an engine is opened.
        trt.init_libnvinfer_plugins(logger, "")
    return logger, messages


def _progress(trt: ModuleType, config):
    """A bar over the phases of the build; older builders have none."""
    bar = progress(total=1, label="engine", unit="steps")
    if not hasattr(trt, "IProgressMonitor"):
        return bar

    class Monitor(trt.IProgressMonitor):
        def __init__(self):
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name, parent_phase, num_steps):
            bar.total = (bar.total or 0) + num_steps
            bar.set_postfix_str(phase_name, refresh=False)

        def phase_finish(self, phase_name):
            bar.refresh()

        def step_complete(self, phase_name, step):
            bar.update(1)
            return True

    config.progress_monitor = Monitor()
    return bar


def _reason(messages: list[str], error: Exception | None = None) -> str:
    """The first error of the log in one line, without the builder's own source files."""
    text = messages[0] if messages else str(error or "no reason given")
    return " ".join(text.split())

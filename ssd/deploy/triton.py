"""A model repository for the Triton inference server: the model, its configuration, its labels."""

import json
import os
import re
import secrets
import shutil
from pathlib import Path

from ssd.deploy.onnx_metadata import Metadata
from ssd.deploy.onnx_names import INPUT
from ssd.errors import InputError
from ssd.files import whole_file, write_text

CONFIG, LABELS, VERSION = "config.pbtxt", "labels.txt", "1"
PLATFORMS = {
    ".onnx": ("onnxruntime_onnx", "model.onnx"),
    ".engine": ("tensorrt_plan", "model.plan"),
    ".plan": ("tensorrt_plan", "model.plan"),
    ".trt": ("tensorrt_plan", "model.plan"),
}


def write_triton(
    repository,
    name: str,
    source: Path,
    metadata: Metadata,
    outputs: list[tuple[str, str, tuple[int, ...]]],
    *,
    max_batch: int,
    static_batch: int | None = None,
) -> Path:
    """Writes `repository/name`: config.pbtxt, labels.txt and version 1 of the model. Replaces a model of that name.

    A class number is the line of labels.txt, counted from 0; so the background has a line where classes count from 1.
    The configuration does not name the file: Triton would take the numbers of classes for scores and label the largest.

    Args:
        repository: folder of all models; made if missing.
        name: of the model.
        source: .onnx, .engine, .plan or .trt; copied.
        metadata: of the graph.
        outputs: name, FP32, INT32 or INT64, and dimensions without the batch.
        max_batch: images of a batch at most, where their number is free.
        static_batch: images of every batch, where it is fixed; Triton then batches nothing.

    Returns:
        The model's folder.

    Raises:
        InputError: a name, a source or a batch that Triton cannot use. Nothing was written.
    """
    source, target = Path(source), check_target(repository, name, source)
    if not source.is_file():
        raise InputError(f"{source}: no such file")
    if source.suffix == ".onnx" and metadata.nms == "efficient_nms":
        raise InputError(
            f"{source}: EfficientNMS runs in TensorRT only, so Triton needs an engine of this graph",
            hint="build an engine and give that, or export with --nms standard",
        )
    if max_batch < 1:
        raise InputError(f"a batch of {max_batch} images; at least 1 is needed")

    platform, file_name = PLATFORMS[source.suffix]
    labels = ("background", *metadata.classes) if metadata.nms == "standard" else metadata.classes
    aside = target.with_name(f".tmp-{secrets.token_hex(4)}-{name}")
    try:
        with whole_file(aside / VERSION / file_name) as temporary:
            shutil.copyfile(source, temporary)
        write_text(aside / LABELS, "".join(f"{label}\n" for label in labels))
        write_text(aside / CONFIG, _config(name, platform, metadata, outputs, max_batch, static_batch))
        _put(aside, target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return target


def check_target(repository, name: str, source) -> Path:
    """The folder of a model.

    Raises:
        InputError: a name or a suffix that Triton cannot use, or something else is there.
    """
    target, suffix = Path(repository) / name, Path(source).suffix
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise InputError(f"{name!r} cannot name a model: letters, digits, _ . and - are allowed")
    if suffix not in PLATFORMS:
        raise InputError(f"{source}: Triton serves {', '.join(PLATFORMS)}, this is {suffix or 'without suffix'}")
    if target.exists() and not (target / CONFIG).is_file():
        raise InputError(f"{target} exists and is no Triton model", hint="give another name, or move it away")
    return target


def _config(name: str, platform: str, metadata: Metadata, outputs, max_batch: int, static: int | None) -> str:
    height, width, channels = metadata.input_size
    batch = (static,) if static else ()  # Triton adds the dimension where it is free
    if metadata.pixels:
        form, entry = "RGB, 0 to 255", _tensor(INPUT, "UINT8", (*batch, height, width, 3))
    else:
        mean = ", ".join(f"{value:g}" for value in metadata.mean)
        form = f"{'BGR' if channels == 3 else 'gray'}, 0 to 255, minus {mean}"
        entry = _tensor(INPUT, "FP32", (*batch, channels, height, width))
    tensors = ",\n".join(_tensor(output, kind, (*batch, *dims)) for output, kind, dims in outputs)
    return f"""\
# {INPUT}: {form}
name: {json.dumps(name)}
platform: "{platform}"
max_batch_size: {0 if static else max_batch}
input [
{entry}
]
output [
{tensors}
]
{"" if static else "dynamic_batching { }"}
"""


def _tensor(name: str, kind: str, dims: tuple[int, ...]) -> str:
    lines = [f"name: {json.dumps(name)}", f"data_type: TYPE_{kind}", f"dims: [ {', '.join(map(str, dims))} ]"]
    return "  {\n" + "".join(f"    {line}\n" for line in lines) + "  }"


def _put(new: Path, target: Path) -> None:
    """Renames the folder `new` to `target`; a folder of that name goes, or stays if this fails."""
    if not target.exists():
        os.rename(new, target)
        return
    old = target.with_name(f".old-{secrets.token_hex(4)}-{target.name}")
    os.rename(target, old)
    try:
        os.rename(new, target)
    except OSError:
        os.rename(old, target)
        raise
    shutil.rmtree(old)

"""A model repository for the Triton inference server: the model, its configuration, its labels."""

import json
import os
import re
import secrets
import shutil
from pathlib import Path

from ssd.deploy.onnx_metadata import Metadata
from ssd.deploy.onnx_names import INPUT
from ssd.deploy.onnx_nms import OUTPUTS
from ssd.errors import InputError
from ssd.files import whole_file, write_text

CONFIG, LABELS, VERSION = "config.pbtxt", "labels.txt", "1"
CLASS_OUTPUT = OUTPUTS[3]
PLATFORMS = {
    ".onnx": ("onnxruntime_onnx", "model.onnx"),
    ".engine": ("tensorrt_plan", "model.plan"),
    ".plan": ("tensorrt_plan", "model.plan"),
}


def write_triton(
    repository,
    name: str,
    source: Path,
    metadata: Metadata,
    outputs: list[tuple[str, str, tuple[int, ...]]],
    *,
    max_batch: int,
) -> Path:
    """Writes `repository/name`: config.pbtxt, labels.txt and version 1 of the model. Replaces a model of that name.

    A class number is the line of labels.txt, counted from 0; so the background has a line where classes count from 1.

    Args:
        repository: folder of all models; made if missing.
        name: of the model.
        source: .onnx, .engine or .plan; copied. Its batch must be free.
        metadata: of the graph.
        outputs: name, FP32, INT32 or INT64, and dimensions without the batch.
        max_batch: images of a batch at most.

    Returns:
        The model's folder.

    Raises:
        InputError: a name, a source or a batch that Triton cannot use. Nothing was written.
    """
    source, target = Path(source), Path(repository) / name
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise InputError(f"{name!r} cannot name a model: letters, digits, _ . and - are allowed")
    if source.suffix not in PLATFORMS:
        raise InputError(f"{source}: Triton serves {', '.join(PLATFORMS)}, this is {source.suffix or 'without suffix'}")
    if not source.is_file():
        raise InputError(f"{source}: no such file")
    if source.suffix == ".onnx" and metadata.nms == "efficient_nms":
        raise InputError(
            f"{source}: EfficientNMS runs in TensorRT only, so Triton needs an engine of this graph",
            hint="build an engine and give that, or export with --nms standard",
        )
    if max_batch < 1:
        raise InputError(f"a batch of {max_batch} images; at least 1 is needed")
    if target.exists() and not (target / CONFIG).is_file():
        raise InputError(f"{target} exists and is no Triton model", hint="give another name, or move it away")

    platform, file_name = PLATFORMS[source.suffix]
    labels = ("background", *metadata.classes) if metadata.nms == "standard" else metadata.classes
    aside = target.with_name(f".tmp-{secrets.token_hex(4)}-{name}")
    try:
        with whole_file(aside / VERSION / file_name) as temporary:
            shutil.copyfile(source, temporary)
        write_text(aside / LABELS, "".join(f"{label}\n" for label in labels))
        write_text(aside / CONFIG, _config(name, platform, metadata, outputs, max_batch))
        _put(aside, target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return target


def _config(name: str, platform: str, metadata: Metadata, outputs, max_batch: int) -> str:
    height, width, channels = metadata.input_size
    if metadata.pixels:
        form, entry = "RGB, 0 to 255", _tensor(INPUT, "UINT8", (height, width, 3))
    else:
        mean = ", ".join(f"{value:g}" for value in metadata.mean)
        form = f"{'BGR' if channels == 3 else 'gray'}, 0 to 255, minus {mean}"
        entry = _tensor(INPUT, "FP32", (channels, height, width))
    tensors = ",\n".join(_tensor(*output, labels=output[0] == CLASS_OUTPUT) for output in outputs)
    return f"""\
# {INPUT}: {form}
name: {json.dumps(name)}
platform: "{platform}"
max_batch_size: {max_batch}
input [
{entry}
]
output [
{tensors}
]
dynamic_batching {{ }}
"""


def _tensor(name: str, kind: str, dims: tuple[int, ...], labels: bool = False) -> str:
    lines = [f"name: {json.dumps(name)}", f"data_type: TYPE_{kind}", f"dims: [ {', '.join(map(str, dims))} ]"]
    if labels:
        lines.append(f'label_filename: "{LABELS}"')
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

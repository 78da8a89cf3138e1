"""Where the INT8 ranges of an export come from: training, a calibration cache, or pictures."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from ssd.console import say
from ssd.data.calibration import choose_images, image_batches, read_tensors, write_tensors
from ssd.deploy.export_graph import Source
from ssd.deploy.graph_predictor import graph_input
from ssd.deploy.onnx_metadata import network_hash
from ssd.errors import InputError
from ssd.files import write_text
from ssd.quantization.calibration import calibrate
from ssd.quantization.calibration_cache import read_cache, write_cache
from ssd.quantization.qdq import quantized_edges, spread
from ssd.quantization.rewrite import Quantization


@dataclass(frozen=True)
class Calibration:
    """What the command line says of calibration.

    Args:
        images: a folder; `batches` of `batch_size` are drawn from it.
        cache: TensorRT's calibration cache, read if it is there, else written.
        prepared: a tensor file, read if it is there, else written.
        keep_float: convolutions that are not rounded, names or patterns.
        force: calibrate although the model knows its ranges.
    """

    images: str | None
    batches: int
    batch_size: int
    method: str
    cache: Path | None
    prepared: Path | None
    keep_float: tuple[str, ...]
    force: bool


def origin(knows: bool, how: Calibration) -> str:
    """What ranges come from: "training", "cache", "tensors" (prepared images) or "images".

    Args:
        knows: whether the model has ranges from quantization-aware training.

    Raises:
        InputError: there is nothing.
    """
    if knows and not how.force:
        return "training"
    if how.cache is not None and how.cache.exists():
        return "cache"
    if how.prepared is not None and how.prepared.exists():
        return "tensors"
    if how.images:
        return "images"
    raise InputError(
        "--data_type int8 needs ranges: none are in the model, and no images were named to find them with",
        hint="--cal_image_dir DIR; or --cal_cache_file of an earlier export; or train with enable_qat: true",
    )


def find_ranges(source: Source, graph: onnx.ModelProto, how: Calibration, *, pixels: bool) -> Quantization:
    """The table of ranges; a calibration cache that was not read is written, and takes the place of one that is there.

    Args:
        graph: float, without NMS.
        pixels: whether its input is uint8 RGB.

    Raises:
        InputError, Problems: no ranges and nothing to find them with, too few images, images that cannot be read, a
            cache or tensor file that is none, a cache that was written for other weights.
    """
    kind = origin(source.quantization is not None, how)
    if kind == "cache":
        _check_origin(how.cache, source)
        _, convolutions = quantized_edges(graph, how.keep_float)
        table = Quantization(read_cache(how.cache), tuple(convolutions))
        say(f"ranges of {len(table.amax)} tensors from {how.cache}")
        return table
    if kind == "training":
        table = source.quantization
        say(f"ranges of {len(table.amax)} tensors from quantization-aware training")
    else:
        images = str(how.prepared if kind == "tensors" else how.images)
        inputs = (graph_input(batch, pixels, source.spec.augmentation.mean) for batch in _images(source, how, kind))
        table = calibrate(graph, inputs, how.method, keep_float=how.keep_float, total=how.batches, where=images)
        say(f"ranges of {len(table.amax)} tensors from {images} ({how.method})")
    if how.cache is not None:
        replaced = how.cache.exists()
        write_cache(how.cache, spread(graph, table.amax))
        write_text(origin_file(how.cache), json.dumps({"network_sha256": network_hash(source.network)}) + "\n")
        say(f"calibration cache: {how.cache}{', replaced' if replaced else ''}")
    return table


def origin_file(cache: Path) -> Path:
    """The JSON file beside a cache of ours that says which weights it was written for; TensorRT's format cannot."""
    return cache.with_name(f"{cache.name}.json")


def _check_origin(cache: Path, source: Source) -> None:
    """Ranges of a network that was trained further do not fit, and nothing but the mAP would tell."""
    try:
        written_for = json.loads(origin_file(cache).read_text(encoding="utf-8"))["network_sha256"]
    except (OSError, ValueError, KeyError, TypeError):  # TAO's and TensorRT's caches come without
        return
    if written_for != network_hash(source.network):
        raise InputError(
            "this calibration cache was written for another model, or for this one before it was trained further",
            where=str(cache),
            hint="delete it, and it is written anew from --cal_image_dir; or name another file",
        )


def _images(source: Source, how: Calibration, kind: str) -> Iterator[np.ndarray]:
    """Batches of network input."""
    if kind == "tensors":
        return read_tensors(how.prepared, tuple(source.network.input_shape[1:]))
    paths = choose_images(how.images, how.batches * how.batch_size, source.spec.random_seed)
    batches = image_batches(paths, source.spec.augmentation, how.batch_size)
    return batches if how.prepared is None else write_tensors(how.prepared, batches)

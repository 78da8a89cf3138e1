"""Where the INT8 ranges of an export come from: training, a calibration cache, or pictures."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from ssd.console import say, warn
from ssd.data.calibration import choose_images, image_batches, read_tensors, write_tensors
from ssd.deploy.export_graph import Source
from ssd.deploy.graph_predictor import graph_input
from ssd.quantization.calibration import calibrate
from ssd.quantization.calibration_cache import read_cache, write_cache
from ssd.quantization.qdq import quantized_edges
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


def find_ranges(source: Source, graph: onnx.ModelProto, how: Calibration, *, pixels: bool) -> Quantization:
    """The table of ranges.

    Args:
        graph: float, without NMS.
        pixels: whether its input is uint8 RGB.

    Raises:
        InputError, Problems: no ranges and nothing to find them with, too few images, images that cannot be read, a
            cache or tensor file that is none.
    """
    if source.quantization is not None and not how.force:
        if how.images:
            warn("--cal_image_dir is not used: the model knows its ranges (--force_ptq calibrates nevertheless)")
        table = source.quantization
        say(f"ranges of {len(table.amax)} tensors from quantization-aware training")
    elif how.cache is not None and how.cache.exists():
        _, convolutions = quantized_edges(graph, how.keep_float)
        table = Quantization(read_cache(how.cache), tuple(convolutions))
        say(f"ranges of {len(table.amax)} tensors from {how.cache}")
        return table
    else:
        inputs = (graph_input(images, pixels, source.spec.augmentation.mean) for images in _images(source, how))
        table = calibrate(graph, inputs, how.method, keep_float=how.keep_float, total=how.batches)
        say(f"ranges of {len(table.amax)} tensors from pictures ({how.method})")
    if how.cache is not None:
        write_cache(how.cache, table.amax)
        say(f"calibration cache: {how.cache}")
    return table


def _images(source: Source, how: Calibration) -> Iterator[np.ndarray]:
    """Batches of network input."""
    if how.prepared is not None and how.prepared.exists():
        return read_tensors(how.prepared, tuple(source.network.input_shape[1:]))
    paths = choose_images(how.images, how.batches * how.batch_size, source.spec.random_seed)
    batches = image_batches(paths, source.spec.augmentation, how.batch_size)
    return batches if how.prepared is None else write_tensors(how.prepared, batches)

"""Ranges of an exported graph's tensors from pictures, which ONNX Runtime puts through the float graph.

The thresholds are our own: ONNX Runtime's entropy calibrator has as many bins as codes by default and so tries one
range, the largest, and its histograms of two signs halve what a bin resolves.
"""

import functools
from collections.abc import Callable, Iterable

import numpy as np
import onnx
from onnx import TensorProto, helper

from ssd.console import progress
from ssd.errors import InputError
from ssd.quantization.qdq import INPUT, key_of, quantized_edges
from ssd.quantization.rewrite import Quantization

METHODS = ("max", "entropy", "percentile")
PERCENTILE = 99.99
BINS = 2048
CODES_OF_ONE_SIGN = 128
CANDIDATE_STEP = 4  # bins between two ranges that are tried: a five-hundredth of the largest
# Of the numbers that count, in every range that is tried: one that holds few looks alike before and after rounding,
# and so would win, most of all where its last bin holds what there is.
LEAST_INSIDE = 0.99
SMOOTH = 1e-4  # numbers in a bin that should have some: a divergence from nothing would be infinite


def calibrate(
    proto: onnx.ModelProto,
    batches: Iterable[np.ndarray],
    method: str,
    *,
    keep_float: tuple[str, ...] = (),
    percentile: float = PERCENTILE,
    total: int | None = None,
    where: str | None = None,
) -> Quantization:
    """The table of ranges that `ssd.quantization.qdq.insert_qdq` takes.

    The network's input keeps its largest value under every method: pixels have bounds, and a flat picture's rare ones
    are no outliers.

    Args:
        proto: a float graph without NMS.
        batches: what goes into its input, as it takes it.
        method: "max": the largest absolute value; "entropy": the threshold that changes the distribution least
            (Migacz 2017); "percentile": the threshold that this percentage of the absolute values is under.
        keep_float: layers that are not quantized.
        total: batches, for the progress bar.
        where: what the batches are read from, for errors.

    Raises:
        InputError: no batch, or a tensor with values that are not finite.
    """
    edges, convolutions = quantized_edges(proto, keep_float)
    tensors = list(dict.fromkeys(edge.range for edge in edges))
    thresholds = {
        "percentile": functools.partial(percentile_threshold, percentile=percentile),
        "entropy": entropy_threshold,
    }
    collect = _Largest() if method == "max" else _Histograms(thresholds[method])
    run = _session(proto, tensors)
    count = 0
    for batch in progress(batches, total=total, label=f"calibration ({method})", unit="batches"):
        values = dict(zip(tensors, run(batch), strict=True))
        for name, value in values.items():
            if not np.isfinite(value).all():
                raise InputError(
                    f"tensor {name} is not finite for calibration batch {count + 1}: no range can be had",
                    where=where,
                    hint="delete a tensor file that holds such numbers; pictures cannot: then the model is broken",
                )
        collect.add(values)
        count += 1
    if not count:
        raise InputError("no image to calibrate with", where=where, hint="--cal_image_dir DIR with images in it")
    amax = {key_of(name): float(value) for name, value in collect.ranges().items()}
    return Quantization({key_of(name): amax[key_of(name)] for name in tensors}, tuple(convolutions))


def _session(proto: onnx.ModelProto, tensors: list[str]):
    """A function from a batch to these tensors' values."""
    import onnxruntime

    watched = onnx.ModelProto()
    watched.CopyFrom(proto)
    inputs = [value.name for value in watched.graph.input]
    present = {value.name for value in watched.graph.output}
    for name in tensors:
        if name not in present and name not in inputs:
            watched.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
    made = [name for name in tensors if name not in inputs]

    def run(batch: np.ndarray) -> list[np.ndarray]:
        values = dict(zip(made, session.run(made, {inputs[0]: batch}) if made else [], strict=True))
        return [values.get(name, batch) for name in tensors]

    return run


class _Largest:
    """The largest absolute value of each tensor."""

    def __init__(self):
        self.amax: dict[str, float] = {}

    def add(self, values: dict[str, np.ndarray]) -> None:
        for name, value in values.items():
            self.amax[name] = max(self.amax.get(name, 0.0), float(np.abs(value).max()))

    def ranges(self) -> dict[str, float]:
        return self.amax


class _Histograms:
    """A threshold out of the histogram of each tensor's absolute values; of the network's input, the largest.

    Args:
        threshold: from counts `(BINS,)` and the width of a bin.
    """

    def __init__(self, threshold: Callable[[np.ndarray, float], float]):
        self._threshold = threshold
        self._largest = _Largest()
        self._counts: dict[str, np.ndarray] = {}
        self._top: dict[str, float] = {}  # where the last bin ends

    def add(self, values: dict[str, np.ndarray]) -> None:
        self._largest.add(values)
        for name, value in values.items():
            largest = self._largest.amax[name]
            counts = self._counts.setdefault(name, np.zeros(BINS, np.int64))
            top = self._top.get(name) or largest  # zeros alone have no width yet
            while top < largest:
                # Bins of twice the width, half as many of them in use.
                counts[:] = np.append(counts.reshape(-1, 2).sum(axis=1), np.zeros(BINS // 2, np.int64))
                top *= 2
            if top:
                counts += np.histogram(np.abs(value), BINS, (0.0, top))[0]
            else:
                counts[0] += value.size
            self._top[name] = top

    def ranges(self) -> dict[str, float]:
        found = dict(self._largest.amax)
        for name, counts in self._counts.items():
            if key_of(name) != INPUT:
                found[name] = min(self._threshold(counts, self._top[name] / BINS), found[name])
        return found


def percentile_threshold(counts: np.ndarray, width: float, percentile: float) -> float:
    """The first edge of a bin that `percentile` percent of the numbers are under."""
    below = np.cumsum(counts)
    return width * (int(np.searchsorted(below, below[-1] * percentile / 100)) + 1)


def entropy_threshold(counts: np.ndarray, width: float) -> float:
    """The edge of a bin that is the best range: the numbers clipped to it, and those inside it rounded to 128 codes,
    are distributed most alike, by the Kullback-Leibler divergence (Migacz 2017).

    Numbers in the first bin do not count: zeros, mostly, which every range holds. What is rounded to one code is spread
    evenly over those of its bins that were not empty. Every range holds `LEAST_INSIDE` of the numbers.
    """
    counts = counts.astype(np.float64)
    counts[0] = 0
    total = counts.sum()
    beyond = total - np.cumsum(counts)  # above each bin
    best, threshold = np.inf, len(counts)
    for bins in range(len(counts), CODES_OF_ONE_SIGN - 1, -CANDIDATE_STEP):
        inside, full = counts[:bins], counts[:bins] > 0
        if not total or inside.sum() < LEAST_INSIDE * total:
            break
        codes = np.arange(bins) * CODES_OF_ONE_SIGN // bins
        shared = np.bincount(codes, inside) / np.maximum(np.bincount(codes, full), 1)
        rounded = np.where(full, shared[codes], 0)
        clipped = inside.copy()
        clipped[-1] += beyond[bins - 1]
        if clipped[-1]:
            rounded[-1] = max(rounded[-1], SMOOTH)
        there = clipped > 0
        before, after = clipped[there] / clipped.sum(), rounded[there] / rounded.sum()
        divergence = float(np.sum(before * np.log(before / after)))
        if divergence < best:
            best, threshold = divergence, bins
    return width * threshold

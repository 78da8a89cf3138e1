"""Ranges of an exported graph's tensors from pictures: ONNX Runtime's collectors over what the float graph makes."""

import contextlib
import io
from collections.abc import Iterable

import numpy as np
import onnx
from onnx import TensorProto, helper

from ssd.console import progress
from ssd.errors import InputError
from ssd.quantization.qdq import key_of, quantized_edges
from ssd.quantization.rewrite import Quantization

METHODS = ("max", "entropy", "percentile")
PERCENTILE = 99.99
# As ONNX Runtime's own calibrators have them: fine enough for a percentile, coarse enough for a divergence.
BINS = {"percentile": 2048, "entropy": 128}
CODES_OF_ONE_SIGN = 128


def calibrate(
    proto: onnx.ModelProto,
    batches: Iterable[np.ndarray],
    method: str,
    *,
    keep_float: tuple[str, ...] = (),
    percentile: float = PERCENTILE,
    total: int | None = None,
) -> Quantization:
    """The table of ranges that `ssd.quantization.qdq.insert_qdq` takes.

    Args:
        proto: a float graph without NMS.
        batches: what goes into its input, as it takes it.
        method: "max": the largest absolute value; "entropy": the threshold that changes the distribution least
            (Migacz 2017); "percentile": the threshold that this percentage of the absolute values is under.
        keep_float: layers that are not quantized.
        total: batches, for the progress bar.

    Raises:
        InputError: no batch, or a tensor with values that are not finite.
    """
    edges, convolutions = quantized_edges(proto, keep_float)
    tensors = list(dict.fromkeys(edge.range for edge in edges))
    collect = _Largest() if method == "max" else _Histograms(method, percentile)
    run = _session(proto, tensors)
    count = 0
    for batch in progress(batches, total=total, label=f"calibration ({method})", unit="batches"):
        values = dict(zip(tensors, run(batch), strict=True))
        for name, value in values.items():
            if not np.isfinite(value).all():
                raise InputError(f"tensor {name} is not finite for calibration batch {count + 1}: no range can be had")
        collect.add(values)
        count += 1
    if not count:
        raise InputError("no image to calibrate with")
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
        values = dict(zip(made, session.run(made, {inputs[0]: batch}), strict=True))
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
    """A threshold out of each tensor's histogram."""

    def __init__(self, method: str, percentile: float):
        from onnxruntime.quantization.calibrate import HistogramCollector

        self.collector = HistogramCollector(method, True, BINS[method], CODES_OF_ONE_SIGN, percentile, "same")

    def add(self, values: dict[str, np.ndarray]) -> None:
        with contextlib.redirect_stdout(io.StringIO()):  # it talks
            self.collector.collect({name: np.asarray(value, np.float32) for name, value in values.items()})

    def ranges(self) -> dict[str, float]:
        with contextlib.redirect_stdout(io.StringIO()):
            found = self.collector.compute_collection_result()
        return {name: max(abs(float(low)), abs(float(high))) for name, (low, high, *_) in found.items()}

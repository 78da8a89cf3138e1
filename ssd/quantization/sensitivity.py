"""Which layers lose most by being rounded: each is rounded alone, and the network's outputs are compared."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from ssd.console import progress
from ssd.quantization.qdq import insert_qdq, rounded_edges
from ssd.quantization.rewrite import Quantization


@dataclass(frozen=True)
class Sensitivity:
    """`error`: mean absolute change of scores and box corners when only `layer` is rounded."""

    layer: str
    error: float


def sensitivities(
    proto: onnx.ModelProto, quantization: Quantization, images: np.ndarray, keep_float: Sequence[str] = ()
) -> list[Sensitivity]:
    """One for each convolution and addition that is rounded, the worst first.

    Args:
        proto: the float graph without NMS.
        images: a batch as the graph takes it.
        keep_float: layers that are not rounded, names or patterns.
    """
    layers = list(dict.fromkeys(edge.consumer for edge in rounded_edges(proto, quantization, keep_float)))
    exact = _outputs(proto, images)
    found = []
    for layer in progress(layers, label="sensitivity", unit="layers"):
        rounded = _outputs(insert_qdq(proto, quantization, keep_float, only=layer), images)
        error = np.mean([np.abs(one - other).mean() for one, other in zip(rounded, exact, strict=True)])
        found.append(Sensitivity(layer, float(error)))
    return sorted(found, key=lambda each: -each.error)


def _outputs(proto: onnx.ModelProto, images: np.ndarray) -> list[np.ndarray]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: images})

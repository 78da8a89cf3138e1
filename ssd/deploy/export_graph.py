"""From a trained detector to the graph that is deployed: float, rounded or halved, and what stands behind it."""

from dataclasses import dataclass

import keras
import numpy as np
import onnx

from ssd.deploy import onnx_metadata
from ssd.deploy.onnx_export import to_onnx
from ssd.deploy.onnx_nms import add_efficient, add_standard
from ssd.errors import RunError
from ssd.models.checkpoint import Artifact
from ssd.models.detector import anchors_for
from ssd.models.fold import fold_batch_norm
from ssd.models.graph import calls
from ssd.quantization.rewrite import Quantization, is_quantized, strip
from ssd.spec.config import Experiment

NMS_KINDS = ("standard", "efficient_nms", "none")


@dataclass(frozen=True)
class Source:
    """What is exported.

    Args:
        network: float, batch normalisation folded.
        anchors: `(A,4)` corners.
        quantization: ranges that quantization-aware training found, by the names of the exported tensors; or None.
    """

    network: keras.Model
    anchors: np.ndarray
    quantization: Quantization | None
    spec: Experiment


def prepare(artifact: Artifact, spec: Experiment) -> Source:
    """The network of a model file as it is deployed.

    Args:
        spec: of the model, perhaps with other NMS settings.
    """
    model, found = artifact.model, None
    if is_quantized(model):
        model, found = strip(model)
    network, gone = fold_batch_norm(model)
    if found is not None:
        found = tensor_ranges(found, network, gone)
    return Source(network, anchors_for(network, spec), found, spec)


def tensor_ranges(found: Quantization, network: keras.Model, gone: dict[str, str]) -> Quantization:
    """Ranges by the names of exported tensors instead of those of the layers that training knew.

    Args:
        network: folded.
        gone: what folding took out -> the layer that now makes its tensor.
    """
    graph = {call.layer.name: call for call in calls(network)}
    amax = {}
    for name, value in found.amax.items():
        name = gone.get(name, name)
        while isinstance(graph[name].layer, keras.layers.Reshape):  # what is reshaped is rounded before
            name = graph[name].inputs[0][0]
        amax[name] = value
    return Quantization(amax, found.convolutions)


def float_graph(source: Source, *, opset: int, batch: int | None, pixels: bool) -> onnx.ModelProto:
    """The float graph without NMS."""
    spec = source.spec
    return to_onnx(
        source.network,
        source.anchors,
        spec.network.variances,
        opset=opset,
        batch=batch,
        pixels=spec.augmentation if pixels else None,
    )


def finished(proto: onnx.ModelProto, source: Source, *, nms: str, data_type: str, pixels: bool) -> onnx.ModelProto:
    """A copy with NMS, metadata and inferred shapes, checked.

    Raises:
        RunError: the graph does not pass ONNX's checker: a defect of ours.
    """
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    if nms == "standard":
        result = add_standard(result, source.spec.nms)
    elif nms == "efficient_nms":
        result = add_efficient(result, source.spec.nms)
    described = onnx_metadata.describe(
        source.network, source.spec, source.anchors, data_type=data_type, nms=nms, pixels=pixels
    )
    onnx_metadata.write(result, described)
    try:
        # The checker knows no plugins; what stands before one has been checked with the other kinds.
        onnx.checker.check_model(proto if nms == "efficient_nms" else result, full_check=True)
    except onnx.checker.ValidationError as error:
        reason = str(error).strip().splitlines()[0]
        raise RunError(f"the exported graph is not valid: {reason}", hint="this is a defect of ssd") from error
    return onnx.shape_inference.infer_shapes(result)


def summary(proto: onnx.ModelProto) -> str:
    """`input Input float32 (batch, 3, 256, 320); outputs boxes (batch, 9000, 4), ...`."""

    def text(value: onnx.ValueInfoProto) -> str:
        kind = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name
        shape = ", ".join(str(dim.dim_value or dim.dim_param or "?") for dim in value.type.tensor_type.shape.dim)
        return f"{value.name} {kind} ({shape})"

    inputs, outputs = (", ".join(map(text, values)) for values in (proto.graph.input, proto.graph.output))
    return f"input {inputs}; outputs {outputs}"

"""Quantize/dequantize pairs in an ONNX graph: the INT8 that TensorRT's strongly typed networks and ONNX Runtime take.

Which tensors are rounded follows the rule of `ssd.quantization.rewrite`: the inputs of convolutions and additions,
taken above paddings, poolings and reshapes; all that is joined by a concatenation with the range of the whole. Kernels
become INT8 constants with one scale an output channel; biases stay as they are.
"""

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ssd.errors import InputError
from ssd.quantization.rewrite import Quantization

CODES = 127.0
CONVOLUTIONS = {"Conv": 0, "ConvTranspose": 1}  # axis of the output channels in the kernel
TRANSPARENT = ("MaxPool", "Pad", "Reshape", "Squeeze", "Unsqueeze", "Transpose")
# Scopes of nodes that are no layers of the network; they stay in float.
OUTSIDE = ("preprocess", "decode", "nms")
INPUT = "Input"


@dataclass(frozen=True)
class Edge:
    """A place where a tensor is rounded: behind the node that makes it, for one that takes it."""

    tensor: str
    taker: str  # name of the node
    range: str  # the tensor whose range is used: itself, or the concatenation that it goes into
    consumer: str  # the layer that it is rounded for, behind whatever stands between


def quantized_edges(proto: onnx.ModelProto, keep_float: Sequence[str] = ()) -> tuple[list[Edge], list[str]]:
    """Where an exported graph is rounded, and the layers whose kernels are.

    An addition is left out by name, or where all convolutions beside it are: nothing there could run in INT8.

    Args:
        proto: as `ssd.deploy.onnx_export.to_onnx` makes it.
        keep_float: convolutions and additions that are left out, names or patterns.

    Raises:
        InputError: a pattern fits no convolution and no addition.
    """
    graph = proto.graph
    makers = {name: node for node in graph.node for name in node.output}
    inside = [node for node in graph.node if layer_of(node) not in OUTSIDE]
    convolutions = [layer_of(node) for node in inside if node.op_type in CONVOLUTIONS]
    additions = [layer_of(node) for node in inside if node.op_type == "Add"]
    kept = _matching([*convolutions, *additions], keep_float)
    edges: dict[tuple[str, str, str], Edge] = {}

    def add(tensor: str, taker: onnx.NodeProto, shared: str | None, consumer: str) -> None:
        maker = makers.get(tensor)
        between = maker is not None and layer_of(maker) not in OUTSIDE
        if between and maker.op_type in TRANSPARENT:
            add(maker.input[0], maker, shared, consumer)
            return
        edges[tensor, taker.name, consumer] = Edge(tensor, taker.name, shared or tensor, consumer)
        if between and maker.op_type == "Concat":
            for name in maker.input:
                add(name, maker, shared or tensor, consumer)

    inputs = {value.name for value in graph.input}
    for node in inside:
        if node.op_type in CONVOLUTIONS and layer_of(node) not in kept:
            add(node.input[0], node, None, layer_of(node))
        elif node.op_type == "Add" and layer_of(node) not in kept and not (kept and _beside(graph, node) <= kept):
            for name in node.input:
                if name in makers or name in inputs:
                    add(name, node, None, layer_of(node))
    return list(edges.values()), [name for name in convolutions if name not in kept]


def insert_qdq(
    proto: onnx.ModelProto, quantization: Quantization, keep_float: Sequence[str] = (), *, only: str | None = None
) -> onnx.ModelProto:
    """The INT8 form of an exported graph; `proto` stays as it is.

    Args:
        quantization: ranges by tensor, as training or calibration found them.
        keep_float: layers left out beside those that `quantization` leaves out.
        only: the one layer that is rounded, a convolution or an addition; None: all.

    Raises:
        InputError: a tensor that is to be rounded has no range, or one that is no number.
    """
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    graph = result.graph
    edges = rounded_edges(proto, quantization, keep_float)
    edges = [edge for edge in edges if only in (None, edge.consumer)]
    consumers = {edge.consumer for edge in edges}
    takers = {node.name: node for node in graph.node}
    _check_ranges({key_of(edge.range) for edge in edges}, quantization)
    pairs: dict[tuple[str, float], str] = {}
    added: dict[str, list[onnx.NodeProto]] = {}  # by the tensor they round
    for edge in edges:
        amax = quantization.amax[key_of(edge.range)]
        if (edge.tensor, amax) not in pairs:
            number = sum(tensor == edge.tensor for tensor, _ in pairs)
            pairs[edge.tensor, amax] = _pair(graph, edge.tensor, amax, f"_{number}" if number else "", added)
        node = takers[edge.taker]
        node.input[:] = [pairs[edge.tensor, amax] if name == edge.tensor else name for name in node.input]
    for node in graph.node:
        if node.op_type in CONVOLUTIONS and layer_of(node) in consumers:
            added.setdefault("", []).append(_round_kernel(graph, node))
    _place(graph, added)
    _drop_unused(graph)
    check(result)
    return result


def rounded_edges(proto: onnx.ModelProto, quantization: Quantization, keep_float: Sequence[str] = ()) -> list[Edge]:
    """`quantized_edges` without those of the convolutions that `quantization` leaves out."""
    edges, convolutions = quantized_edges(proto, keep_float)
    skipped = set(convolutions) - set(quantization.convolutions)
    return [edge for edge in edges if edge.consumer not in skipped]


def spread(proto: onnx.ModelProto, amax: dict[str, float]) -> dict[str, float]:
    """`amax` with the ranges that follow from it: of what is joined to a tensor that has one, and of what paddings,
    poolings and reshapes hand on. Engines that find their own places to round want a range of each."""
    found = dict(amax)
    for edge in quantized_edges(proto)[0]:
        if key_of(edge.range) in amax:
            found.setdefault(key_of(edge.tensor), amax[key_of(edge.range)])
    for node in proto.graph.node:
        if node.op_type in TRANSPARENT and layer_of(node) not in OUTSIDE and key_of(node.input[0]) in found:
            found.setdefault(node.output[0], found[key_of(node.input[0])])
    return found


def check(proto: onnx.ModelProto) -> None:
    """What TensorRT refuses in a quantized graph must not be in it.

    Raises:
        InputError: zero points that are not zero, scales that are not positive, a quantizer whose codes are not
            dequantized at once, a rounded bias, a rounded softmax.
    """
    graph = proto.graph
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    takers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            takers.setdefault(name, []).append(node)
    for node in graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        tensor, scale, zero = node.input
        if values[zero].dtype != np.int8 or values[zero].any():
            raise InputError(f"{node.name}: a zero point that is not 0; TensorRT takes symmetric INT8 only")
        if not (np.isfinite(values[scale]).all() and (values[scale] > 0).all()):
            raise InputError(f"{node.name}: scale {values[scale].min():g}; a positive number is needed")
        following = takers.get(node.output[0], [])
        if node.op_type == "QuantizeLinear" and {other.op_type for other in following} != {"DequantizeLinear"}:
            raise InputError(f"{node.name}: the codes of {tensor} are not dequantized at once")
        for other in following:
            if other.op_type in CONVOLUTIONS and len(other.input) > 2 and other.input[2] == node.output[0]:
                raise InputError(f"{node.name}: the bias of {other.name} is rounded; TensorRT takes it in float only")
            if other.op_type == "Softmax":
                raise InputError(f"{node.name}: the input of {other.name} is rounded")


def layer_of(node: onnx.NodeProto) -> str:
    """The layer that a node is part of."""
    return node.name.partition("/")[0]


def key_of(tensor: str) -> str:
    """The name that a table of ranges has for a tensor: what preprocessing in the graph makes is the input."""
    return INPUT if tensor.startswith("preprocess/") else tensor


def _beside(graph: onnx.GraphProto, addition: onnx.NodeProto) -> set[str]:
    """Convolutions before and behind an addition, with no other convolution or addition between."""
    makers = {name: node for node in graph.node for name in node.output}

    def before(node):
        return [makers[name] for name in node.input if name in makers]

    def behind(node):
        return [other for other in graph.node if set(node.output) & set(other.input)]

    found: set[str] = set()
    for step in (before, behind):
        waiting = step(addition)
        while waiting:
            node = waiting.pop()
            if node.op_type in CONVOLUTIONS:
                found.add(layer_of(node))
            elif node.op_type != "Add" and layer_of(node) not in OUTSIDE:
                waiting += step(node)
    return found


def _matching(names: list[str], patterns: Sequence[str]) -> set[str]:
    kept: set[str] = set()
    for pattern in patterns:
        hits = fnmatch.filter(names, pattern)
        if not hits:
            raise InputError(
                f"--keep_fp {pattern}: fits none of the {len(names)} convolutions and additions of the network",
                hint="names and quoted patterns of them, such as 'ssd_conf_*' or conv1",
            )
        kept.update(hits)
    return kept


def _check_ranges(needed: set[str], quantization: Quantization) -> None:
    missing = sorted(name for name in needed if name not in quantization.amax)
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise InputError(f"no range for tensor {missing[0]}{more}: the table is of another network")
    for name in sorted(needed):
        if not (np.isfinite(quantization.amax[name]) and quantization.amax[name] >= 0):
            raise InputError(f"the range of tensor {name} is {quantization.amax[name]}; a positive number is needed")


def _scale(amax) -> np.ndarray:
    # A tensor that is always zero: any scale does.
    return np.maximum(np.asarray(amax, np.float64) / CODES, 1e-12).astype(np.float32)


def _pair(graph, tensor: str, amax: float, suffix: str, added: dict) -> str:
    """Quantize and dequantize `tensor`; the name of the result."""
    scale, zero = f"{tensor}/scale{suffix}", f"{tensor}/zero_point{suffix}"
    graph.initializer.append(numpy_helper.from_array(_scale(amax), scale))
    graph.initializer.append(numpy_helper.from_array(np.zeros((), np.int8), zero))
    codes, result = f"{tensor}/codes{suffix}", f"{tensor}/rounded{suffix}"
    added.setdefault(tensor, []).extend(
        [
            helper.make_node("QuantizeLinear", [tensor, scale, zero], [codes], name=f"{tensor}/QuantizeLinear{suffix}"),
            helper.make_node("DequantizeLinear", [codes, scale, zero], [result], name=f"{tensor}/Dequantize{suffix}"),
        ]
    )
    return result


def _round_kernel(graph, node: onnx.NodeProto) -> onnx.NodeProto:
    """Replaces the kernel of a convolution by INT8 codes; the node that makes numbers of them."""
    axis, layer = CONVOLUTIONS[node.op_type], layer_of(node)
    kernel = numpy_helper.to_array(next(tensor for tensor in graph.initializer if tensor.name == node.input[1]))
    others = tuple(number for number in range(kernel.ndim) if number != axis)
    scale = _scale(np.abs(kernel).max(axis=others))
    shape = [1] * kernel.ndim
    shape[axis] = -1
    codes = np.clip(np.round(kernel / scale.reshape(shape)), -CODES, CODES).astype(np.int8)
    names = [f"{layer}/{part}" for part in ("kernel_codes", "kernel_scale", "kernel_zero_point")]
    for name, value in zip(names, (codes, scale, np.zeros(len(scale), np.int8)), strict=True):
        graph.initializer.append(numpy_helper.from_array(value, name))
    rounded = f"{layer}/kernel_rounded"
    node.input[1] = rounded
    return helper.make_node("DequantizeLinear", names, [rounded], name=f"{layer}/DequantizeKernel", axis=axis)


def _place(graph, added: dict[str, list[onnx.NodeProto]]) -> None:
    """Puts new nodes behind the nodes whose tensors they take."""
    nodes = list(added.pop("", []))
    for value in graph.input:
        nodes += added.pop(value.name, [])
    for node in graph.node:
        nodes.append(node)
        for name in node.output:
            nodes += added.pop(name, [])
    del graph.node[:]
    graph.node.extend(nodes)


def _drop_unused(graph) -> None:
    used = {name for node in graph.node for name in node.input}
    unused = [tensor for tensor in graph.initializer if tensor.name not in used]
    for tensor in unused:
        graph.initializer.remove(tensor)

"""The network of an exported graph in float16; its input, its outputs, decoding and NMS stay in float32.

Box coordinates need more than the eleven bits of a float16, and scores are compared with each other: what is wide and
cheap is halved, what is narrow and delicate is not.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ssd.errors import InputError
from ssd.quantization.qdq import OUTSIDE, layer_of

LARGEST = 65504.0


def to_half(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of the graph with casts where numbers enter and leave the network.

    Raises:
        InputError: a weight that float16 cannot hold.
    """
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    graph = result.graph
    inside = {node.name for node in graph.node if layer_of(node) not in OUTSIDE}
    made_inside = {name for node in graph.node if node.name in inside for name in node.output}
    outputs = {value.name for value in graph.output}
    floats = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
    halved: dict[str, str] = {}  # weight -> its float16 form
    casts: set[str] = set()
    nodes: list[onnx.NodeProto] = []

    def cast(name: str, suffix: str, to: int) -> str:
        result = f"{name}/{suffix}"
        if result not in casts:
            nodes.append(helper.make_node("Cast", [name], [result], name=f"{name}/Cast_{suffix}", to=to))
            casts.add(result)
        return result

    entering = {value.name for value in graph.input if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    entering |= {name for node in graph.node if node.name not in inside for name in node.output}
    for node in graph.node:
        taken = list(node.input)
        for index, name in enumerate(taken):
            if node.name in inside:
                if name in floats:
                    taken[index] = _halved(graph, floats[name], halved)
                elif name in entering:
                    taken[index] = cast(name, "half", TensorProto.FLOAT16)
            elif name in made_inside:
                taken[index] = cast(name, "float", TensorProto.FLOAT)
        node.input[:] = taken
        nodes.append(node)
    if stray := made_inside & outputs:
        raise InputError(f"output {min(stray)} of the graph is made by the network itself, without decoding")
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)
    return result


def _halved(graph: onnx.GraphProto, tensor: onnx.TensorProto, halved: dict[str, str]) -> str:
    if tensor.name not in halved:
        values = numpy_helper.to_array(tensor)
        if not (np.abs(values) <= LARGEST).all():
            raise InputError(f"{tensor.name}: the value {np.abs(values).max():g} is too large for float16")
        halved[tensor.name] = f"{tensor.name}_half"
        graph.initializer.append(numpy_helper.from_array(values.astype(np.float16), halved[tensor.name]))
    return halved[tensor.name]

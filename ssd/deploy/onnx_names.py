"""Names in an ONNX graph after the layers that its nodes come from: stable, and the same in every file of a network."""

import re
from collections.abc import Sequence

import onnx

INPUT, BOXES, SCORES = "Input", "boxes", "scores"  # of a graph without NMS
DECODE, PREPROCESS = "decode", "preprocess"  # scopes of what belongs to no layer

# What the converter puts between layers: changes of layout, under names of its own.
INSERTED = re.compile(r"__\d+$")
RESHAPES = ("Reshape", "Squeeze", "Unsqueeze")
LAYOUT = ("Transpose", "Identity", *RESHAPES)
# Inputs of a node that are weights, by op type.
WEIGHTS = {op: {1: "kernel", 2: "bias"} for op in ("Conv", "ConvTranspose")}
WEIGHTS["BatchNormalization"] = {1: "gamma", 2: "beta", 3: "moving_mean", 4: "moving_variance"}


def name_tensors(proto: onnx.ModelProto, layers: Sequence[str]) -> onnx.ModelProto:
    """Renames everything but the graph's inputs and outputs.

    The tensor that a layer hands on gets the layer's name, whatever else it makes `layer/op`, its weights
    `layer/kernel` and so on, nodes `layer/op`.

    Args:
        proto: names of nodes begin with the name of a scope, a layer or another part, and a stroke.
        layers: their names.
    """
    graph = proto.graph
    _order(graph)
    kept = {value.name for value in (*graph.input, *graph.output)}
    scopes = _scopes(graph)
    # The last node of a layer makes what the layer hands on; what the converter put in between does not.
    last = {scopes[node.name]: node.name for node in graph.node if not _inserted(node)}
    names, nodes = _Names(kept), _Names(set())
    names.taken |= set(layers)
    new: dict[str, str] = {}
    for node in graph.node:
        scope = scopes[node.name]
        for name in node.output:
            if name not in kept:
                handed_on = scope in layers and last.get(scope) == node.name and name == node.output[0]
                new[name] = scope if handed_on else names.unused(f"{scope}/{node.op_type.lower()}")
    initializers = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name in initializers and name not in new:
                role = WEIGHTS.get(node.op_type, {}).get(index, "constant")
                new[name] = names.unused(f"{scopes[node.name]}/{role}")
    for node in graph.node:
        node.name = nodes.unused(f"{scopes[node.name]}/{node.op_type}")
        node.input[:] = [new.get(name, name) for name in node.input]
        node.output[:] = [new.get(name, name) for name in node.output]
    for tensor in graph.initializer:
        tensor.name = new.get(tensor.name, tensor.name)
    # In an order of their own: the converter's is that of a set. What idle reshapes counted with is not needed.
    used = {name for node in graph.node for name in node.input}
    tensors = sorted((tensor for tensor in graph.initializer if tensor.name in used), key=lambda each: each.name)
    copies = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in tensors]
    del graph.initializer[:]
    graph.initializer.extend(copies)
    del graph.value_info[:]  # shapes are inferred anew, under the new names
    return proto


def _order(graph: onnx.GraphProto) -> None:
    """Puts the nodes in an order that follows from the graph alone; the converter's differs from run to run."""
    makers = {name: node for node in graph.node for name in node.output}
    ordered: list[onnx.NodeProto] = []
    placed: set[str] = set()
    waiting = [(makers[value.name], False) for value in reversed(graph.output)]
    while waiting:
        node, ready = waiting.pop()
        if node.output[0] in placed:
            continue
        if ready:
            placed.add(node.output[0])
            ordered.append(node)
        else:
            waiting.append((node, True))
            waiting += [(makers[name], False) for name in reversed(node.input) if name in makers]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in ordered]
    del graph.node[:]
    graph.node.extend(copies)


def drop_idle_reshapes(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Takes out reshapes that change nothing, alone or several in a row: what is left of a change of layout where a map
    has one cell."""
    inferred = onnx.shape_inference.infer_shapes(proto).graph
    shapes = {}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        # The batch is one number throughout, known or not.
        shapes[value.name] = [dim.dim_value for dim in value.type.tensor_type.shape.dim][1:]
    kept = {value.name for value in proto.graph.output}
    # Tensor -> those that hold the same numbers in the same order, the last one first.
    before: dict[str, list[str]] = {}
    same: dict[str, str] = {}
    for node in proto.graph.node:
        node.input[:] = [same.get(name, name) for name in node.input]
        if node.op_type in RESHAPES:
            (output,) = node.output
            before[output] = [node.input[0], *before.get(node.input[0], [])]
            equal = [name for name in before[output] if shapes.get(name) == shapes.get(output)]
            if equal and shapes[output] and all(shapes[output]) and output not in kept:
                same[output] = equal[-1]
    used = {name for node in proto.graph.node for name in node.input} | kept
    for node in reversed(list(proto.graph.node)):
        if node.op_type in RESHAPES and node.output[0] not in used:
            proto.graph.node.remove(node)
            used = {name for node in proto.graph.node for name in node.input} | kept
    return proto


class _Names:
    """Names that were given away."""

    def __init__(self, taken: set[str]):
        self.taken = set(taken)

    def take(self, name: str) -> str:
        self.taken.add(name)
        return name

    def unused(self, name: str) -> str:
        found, number = name, 1
        while found in self.taken:
            found, number = f"{name}_{number}", number + 1
        return self.take(found)


def _inserted(node: onnx.NodeProto) -> bool:
    return node.op_type in LAYOUT and INSERTED.search(node.name) is not None


def _scopes(graph: onnx.GraphProto) -> dict[str, str]:
    """The scope of each node: by its name, else by its weights', else that of the first that takes its output."""
    weights = {tensor.name for tensor in graph.initializer}
    scopes: dict[str, str] = {}
    taker: dict[str, str] = {}
    for node in reversed(graph.node):
        named = [node.name, *(name for name in node.input if name in weights)]
        found = [name.partition("/")[0] for name in named if "/" in name]
        found += [taker[name] for name in node.output if name in taker]
        scopes[node.name] = found[0] if found else "graph"
        for name in node.input:
            taker[name] = scopes[node.name]
    # What changes the layout of preprocessed pixels belongs to them: its tensor is the network's input.
    made = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        source = made.get(node.input[0]) if node.input else None
        if source is not None and _inserted(node) and scopes[source.name] == PREPROCESS:
            scopes[node.name] = PREPROCESS
    return scopes

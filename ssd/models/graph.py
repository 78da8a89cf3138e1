"""A functional network as a list of calls: which layer takes which tensors, in an order that can be followed."""

from collections.abc import Iterable
from dataclasses import dataclass

import keras

from ssd.errors import ModelError

Tensor = tuple[str, int]  # a layer's name and which of its calls made the tensor


@dataclass(frozen=True)
class Call:
    """One call of a layer. Layers that are shared have several.

    Args:
        layer: the one that is called.
        inputs: the tensors it takes; none for an input layer.
        shapes: theirs, the batch first; for an input layer that of its output.
        output: the tensor it gives.
    """

    layer: keras.Layer
    inputs: tuple[Tensor, ...]
    shapes: tuple[tuple[int | None, ...], ...]
    output: Tensor


def calls(model: keras.Model) -> list[Call]:
    """The calls of a functional model, each after those that make its inputs.

    Raises:
        ModelError: a layer gives more than one tensor, and another than the first is used; or takes a tensor of none.
    """
    waiting = []
    described = model.get_config()
    _only_first(_triples(described["output_layers"]))
    for config in described["layers"]:
        layer = model.get_layer(config["config"]["name"])
        nodes = config["inbound_nodes"] or [{}]  # an input layer has no node in the configuration
        for index, node in enumerate(nodes):
            taken = _tensors(node)
            _only_first(each["keras_history"] for each in taken)
            inputs = tuple(tuple(each["keras_history"][:2]) for each in taken)
            shapes = tuple(tuple(each["shape"]) for each in taken) or (tuple(layer.batch_shape),)
            waiting.append(Call(layer, inputs, shapes, (layer.name, index)))
    ordered, known = [], set()
    while waiting:
        ready = [call for call in waiting if known.issuperset(call.inputs)]
        if not ready:
            name = waiting[0].layer.name
            raise ModelError(f"layer {name} takes what no layer before it gives: the network cannot be followed")
        waiting = [call for call in waiting if not known.issuperset(call.inputs)]
        ordered += ready
        known |= {call.output for call in ready}
    return ordered


def outputs(model: keras.Model) -> list[Tensor]:
    """The tensors that the model returns."""
    return [(name, call) for name, call, _ in _triples(model.get_config()["output_layers"])]


def named_outputs(model: keras.Model) -> dict[str, Tensor]:
    """The same by name, for a model whose outputs have names, as a detector's."""
    return {name: (layer, call) for name, (layer, call, _) in model.get_config()["output_layers"].items()}


def _only_first(triples: Iterable[tuple[str, int, int]]) -> None:
    for name, _, output in triples:
        if output:
            raise ModelError(f"layer {name} has more than one output, which none of our networks has")


def _tensors(node) -> list[dict]:
    """The tensors among a call's arguments, in order, as Keras describes them."""
    if isinstance(node, dict):
        if node.get("class_name") == "__keras_tensor__":
            return [node["config"]]
        return [found for value in node.values() for found in _tensors(value)]
    if isinstance(node, (list, tuple)):
        return [found for value in node for found in _tensors(value)]
    return []


def _triples(node) -> list[tuple[str, int, int]]:
    """Keras' nested `output_layers`: [name, call, tensor], in lists or dictionaries."""
    if isinstance(node, dict):
        return [found for value in node.values() for found in _triples(value)]
    if len(node) == 3 and isinstance(node[0], str):
        return [tuple(node)]
    return [found for value in node for found in _triples(value)]

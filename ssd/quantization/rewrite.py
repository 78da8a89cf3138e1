"""From a float network to its quantization-aware form and back.

Quantized are the inputs of convolutions and both inputs of additions: what an engine can then run in INT8. A tensor
has one range wherever it goes. Padding and max-pooling give their input's numbers on, so the range is taken before
them, and what is pooled stays INT8. A concatenation is rounded as a whole, which gives all its inputs one range.

A convolution that is kept in float takes numbers as they are, unless it shares a padding or pooling in front of it with
a quantized one: then both take the rounded ones.
"""

import difflib
import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass

import keras

from ssd.errors import ModelError, SpecError
from ssd.models.depthwise import DepthwiseConv2D
from ssd.models.graph import Call, calls
from ssd.models.running_statistics import RANGE_SUFFIX
from ssd.quantization.fake_quant import FakeQuant, QuantConv2D, QuantConv2DTranspose, QuantDepthwiseConv2D

QUANTIZED = {
    keras.layers.Conv2D: QuantConv2D,
    keras.layers.DepthwiseConv2D: QuantDepthwiseConv2D,
    keras.layers.Conv2DTranspose: QuantConv2DTranspose,
}
FLOAT = {
    QuantConv2D: keras.layers.Conv2D,
    QuantDepthwiseConv2D: DepthwiseConv2D,
    QuantConv2DTranspose: keras.layers.Conv2DTranspose,
}
TRANSPARENT = (keras.layers.ZeroPadding2D, keras.layers.MaxPooling2D)


@dataclass(frozen=True)
class Quantization:
    """What a quantization-aware network says to an engine.

    Args:
        amax: name of the layer that makes a tensor -> the largest absolute value that its codes hold.
        convolutions: layers whose kernels are INT8, one range an output channel: its largest absolute value.
    """

    amax: dict[str, float]
    convolutions: tuple[str, ...]


def is_quantized(model: keras.Model) -> bool:
    """Whether `model` has been through `quantize`."""
    return any(isinstance(layer, FakeQuant) for layer in model.layers)


def quantize(model: keras.Model, keep_float: Sequence[str] = ()) -> keras.Model:
    """The quantization-aware form of a float network, with its weights; ranges are to be found by training.

    Args:
        model: any functional network of ours: fresh, pretrained, pruned.
        keep_float: convolutions that are not quantized, names or patterns such as `ssd_conf_*`.

    Raises:
        ModelError: quantized already, or with layers that are used more than once.
        SpecError: a pattern fits no convolution.
    """
    if is_quantized(model):
        raise ModelError(f"{model.name} is quantization-aware already")
    graph = calls(model)
    if repeated := sorted({call.layer.name for call in graph if call.output[1]}):
        raise ModelError(f"layer {repeated[0]} is used more than once: its tensors cannot have ranges of their own")
    kept = _kept_float(graph, keep_float)
    edges = _edges(graph, kept)

    def clone(layer):
        kind = next((quantized for stock, quantized in QUANTIZED.items() if isinstance(layer, stock)), None)
        if kind is None or layer.name in kept:
            return type(layer).from_config(layer.get_config())
        return kind.from_config(layer.get_config())

    rounded: dict[str, keras.KerasTensor] = {}
    made: dict[int, tuple[str, keras.KerasTensor]] = {}  # by the tensor's id; the tensor too, so that ids stay taken

    def through(tensor, consumer: str):
        name = made[id(tensor)][0]
        if (name, consumer) not in edges:
            return tensor
        if name not in rounded:
            rounded[name] = FakeQuant(name=f"{name}{RANGE_SUFFIX}", dtype=_policy(model.get_layer(name)))(tensor)
        return rounded[name]

    def call(layer, *args, **kwargs):
        args = keras.tree.map_structure(lambda tensor: through(tensor, layer.name), args)
        output = layer(*args, **kwargs)
        made[id(output)] = (layer.name, output)
        return output

    inputs = keras.tree.map_structure(_input_like, model.input)
    for tensor in keras.tree.flatten(inputs):
        made[id(tensor)] = (tensor.name, tensor)
    result = keras.models.clone_model(model, input_tensors=inputs, clone_function=clone, call_function=call)
    _copy_weights(model, result)
    return result


def strip(model: keras.Model) -> tuple[keras.Model, Quantization]:
    """The float network inside a quantization-aware one, with its weights, and the ranges found in training."""
    amax, convolutions = {}, []
    for layer in model.layers:
        if isinstance(layer, FakeQuant):
            amax[layer.name.removesuffix(RANGE_SUFFIX)] = float(keras.ops.convert_to_numpy(layer.amax))
        elif type(layer) in FLOAT:
            convolutions.append(layer.name)

    def clone(layer):
        return FLOAT.get(type(layer), type(layer)).from_config(layer.get_config())

    def call(layer, *args, **kwargs):
        return args[0] if isinstance(layer, FakeQuant) else layer(*args, **kwargs)

    inputs = keras.tree.map_structure(_input_like, model.input)
    result = keras.models.clone_model(model, input_tensors=inputs, clone_function=clone, call_function=call)
    _copy_weights(model, result)
    return result, Quantization(amax, tuple(convolutions))


def _kept_float(graph: list[Call], patterns: Sequence[str]) -> set[str]:
    """Names of the convolutions that `patterns` mean."""
    names = [call.layer.name for call in graph if isinstance(call.layer, tuple(QUANTIZED))]
    kept = set()
    for pattern in patterns:
        hits = fnmatch.filter(names, pattern)
        if not hits:
            near = difflib.get_close_matches(pattern, names, n=3)
            raise SpecError(
                f'"{pattern}" fits none of the {len(names)} convolutions of the network',
                where="training_config.qat_config.keep_float",
                hint=f"did you mean {' or '.join(near)}?"
                if near
                else "names and patterns of convolutions, such as ssd_conf_* or conv1",
            )
        kept.update(hits)
    return kept


def _edges(graph: list[Call], kept: set[str]) -> set[tuple[str, str]]:
    """(layer that makes a tensor, layer that takes it rounded)."""
    by_name = {call.layer.name: call for call in graph}
    edges = set()
    for call in graph:
        convolution = isinstance(call.layer, tuple(QUANTIZED)) and call.layer.name not in kept
        if not convolution and not isinstance(call.layer, keras.layers.Add):
            continue
        for source, _ in call.inputs:
            consumer = call.layer.name
            while isinstance(by_name[source].layer, TRANSPARENT):
                consumer, source = source, by_name[source].inputs[0][0]
            edges.add((source, consumer))
    return edges


def _policy(layer: keras.Layer):
    """The precision of what takes the tensor: an input layer says nothing of it."""
    return keras.config.dtype_policy() if isinstance(layer, keras.layers.InputLayer) else layer.dtype_policy


def _input_like(tensor: keras.KerasTensor) -> keras.KerasTensor:
    return keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor.name)


def _copy_weights(source: keras.Model, target: keras.Model) -> None:
    """By layer name; layers of one only keep what they have."""
    names = {layer.name for layer in source.layers}
    for layer in target.layers:
        if layer.weights and layer.name in names:
            layer.set_weights(source.get_layer(layer.name).get_weights())

"""Batch normalisation multiplied into the convolutions before it: what a network is deployed as."""

from collections import Counter

import keras
import numpy as np

from ssd.models.graph import calls, outputs

CONVOLUTIONS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.Conv2DTranspose)


def fold_batch_norm(model: keras.Model) -> tuple[keras.Model, dict[str, str]]:
    """A network without the BN layers that stand alone behind a convolution; the convolutions get biases.

    The same function as `model` in inference; layer names stay, those of the BN layers go, and those of dropouts, which
    do nothing then. Products are taken in float64. A BN behind something else, or beside another taker of the
    convolution's output, stays; so does one that is used more than once, or whose convolution is.

    Returns:
        The network; layer that went -> the layer that now makes its tensor.
    """
    graph = calls(model)
    takers = Counter(tensor for call in graph for tensor in call.inputs) + Counter(outputs(model))
    uses = Counter(call.layer.name for call in graph)
    makers = {call.output: call.layer for call in graph}
    pairs = {}  # convolution -> its BN
    for call in graph:
        if not isinstance(call.layer, keras.layers.BatchNormalization):
            continue
        conv = makers[call.inputs[0]]
        plain = isinstance(conv, CONVOLUTIONS) and conv.activation is keras.activations.linear
        if plain and takers[call.inputs[0]] == uses[conv.name] == uses[call.layer.name] == 1:
            pairs[conv.name] = call.layer.name
    gone = {norm: conv for conv, norm in pairs.items()}
    for call in graph:
        if isinstance(call.layer, keras.layers.Dropout) and uses[call.layer.name] == 1:
            source = call.inputs[0][0]
            gone[call.layer.name] = gone.get(source, source)

    def clone(layer):
        config = layer.get_config()
        if layer.name in pairs:
            config["use_bias"] = True
        return type(layer).from_config(config)

    def call(layer, *args, **kwargs):
        return args[0] if layer.name in gone else layer(*args, **kwargs)

    result = keras.models.clone_model(model, clone_function=clone, call_function=call)
    for layer in result.layers:
        if not layer.weights:
            continue
        source = model.get_layer(layer.name)
        weights = source.get_weights()
        if layer.name in pairs:
            weights = _multiplied(source, weights, model.get_layer(pairs[layer.name]))
        layer.set_weights(weights)
    return result, gone


def _multiplied(conv: keras.Layer, weights: list[np.ndarray], norm: keras.layers.BatchNormalization) -> list:
    kernel, *bias = (weight.astype(np.float64) for weight in weights)
    gamma, beta, mean, variance = (weight.astype(np.float64) for weight in norm.get_weights())
    gain = gamma / np.sqrt(variance + norm.epsilon)
    # A depthwise kernel is (kh, kw, channel, 1), a transposed one (kh, kw, out, in).
    inner = isinstance(conv, keras.layers.DepthwiseConv2D | keras.layers.Conv2DTranspose)
    kernel = kernel * (gain[:, np.newaxis] if inner else gain)
    before = bias[0] if bias else 0.0
    return [kernel, (before - mean) * gain + beta]

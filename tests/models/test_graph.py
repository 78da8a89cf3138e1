"""A network as a list of calls: followed one by one they must give what Keras gives, however layers are shared."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssd.errors import ModelError
from ssd.models.graph import calls, named_outputs, outputs

L = keras.layers


def short(model):
    """(layer, its inputs, its output), in the order of the calls."""
    return [(call.layer.name, call.inputs, call.output) for call in calls(model)]


def followed(model, images):
    """The tensors of `model` by walking the calls, each of which must find its inputs made."""
    tensors = {}
    for call in calls(model):
        assert call.output not in tensors
        if not call.inputs:
            tensors[call.output] = images
            continue
        taken = [tensors[tensor] for tensor in call.inputs]
        for value, shape in zip(taken, call.shapes, strict=True):
            assert tuple(value.shape)[1:] == shape[1:] and shape[0] is None
        tensors[call.output] = call.layer(taken if len(taken) > 1 else taken[0])
    return tensors


def test_calls_come_in_the_order_of_a_chain_with_inputs_and_shapes():
    images = keras.Input((6, 4, 3), name="Input")
    x = L.Conv2D(5, 1, name="conv")(images)
    model = keras.Model(images, L.ReLU(name="relu")(x))
    assert short(model) == [
        ("Input", (), ("Input", 0)),
        ("conv", (("Input", 0),), ("conv", 0)),
        ("relu", (("conv", 0),), ("relu", 0)),
    ]
    assert [call.shapes for call in calls(model)] == [((None, 6, 4, 3),), ((None, 6, 4, 3),), ((None, 6, 4, 5),)]
    assert calls(model)[1].layer is model.get_layer("conv")
    assert outputs(model) == [("relu", 0)]


def test_several_inputs_keep_the_order_of_the_arguments():
    images = keras.Input((4, 4, 3), name="Input")
    one, other = L.Conv2D(3, 1, name="a")(images), L.Conv2D(3, 1, name="b")(images)
    model = keras.Model(images, L.Concatenate(name="join")([other, images, one]))
    assert short(model)[-1][:2] == ("join", (("b", 0), ("Input", 0), ("a", 0)))
    subtracted = keras.Model(images, L.Subtract(name="minus")([one, other]))
    assert short(subtracted)[-1][1] == (("a", 0), ("b", 0))


def test_a_shared_layer_has_a_call_for_each_use_and_takes_its_own_output():
    images = keras.Input((4, 4, 3), name="Input")
    conv = L.Conv2D(3, 1, name="conv")
    model = keras.Model(images, conv(L.ReLU(name="relu")(conv(images))))
    assert short(model) == [
        ("Input", (), ("Input", 0)),
        ("conv", (("Input", 0),), ("conv", 0)),
        ("relu", (("conv", 0),), ("relu", 0)),
        ("conv", (("relu", 0),), ("conv", 1)),
    ]
    assert outputs(model) == [("conv", 1)]


def test_uses_of_a_layer_in_another_network_are_not_counted():
    images = keras.Input((4, 4, 3), name="Input")
    conv = L.Conv2D(3, 1, name="conv")
    keras.Model(images, L.ReLU()(conv(images)))
    model = keras.Model(images, L.ReLU(name="relu")(conv(images)))
    assert short(model)[1:] == [("conv", (("Input", 0),), ("conv", 0)), ("relu", (("conv", 0),), ("relu", 0))]


def test_outputs_of_every_nesting_and_by_name():
    images = keras.Input((4, 4, 3), name="Input")
    conv = L.Conv2D(3, 1, name="conv")
    first = conv(images)
    second = conv(first)
    assert outputs(keras.Model(images, [second])) == [("conv", 1)]
    assert outputs(keras.Model(images, [first, [images, second]])) == [("conv", 0), ("Input", 0), ("conv", 1)]
    model = keras.Model(images, {"offsets": second, "class_logits": first})
    assert named_outputs(model) == {"offsets": ("conv", 1), "class_logits": ("conv", 0)}
    assert set(outputs(model)) == {("conv", 0), ("conv", 1)}


class Halves(L.Layer):
    def call(self, x):
        return x[..., :1], x[..., 1:]

    def compute_output_shape(self, shape):
        return (*shape[:-1], 1), (*shape[:-1], shape[-1] - 1)


def test_a_layer_with_two_outputs_is_refused_wherever_the_second_goes():
    images = keras.Input((4, 4, 3), name="Input")
    first, second = Halves(name="halves")(images)
    for model in (
        keras.Model(images, L.ReLU()(second)),
        keras.Model(images, L.Concatenate()([first, second])),
        keras.Model(images, {"offsets": second}),
        keras.Model(images, [first, second]),
    ):
        with pytest.raises(ModelError, match="layer halves has more than one output"):
            calls(model)


@settings(max_examples=15)
@given(data=st.data())
def test_random_networks_followed_call_by_call_give_what_keras_gives(data):
    images = keras.Input((4, 4, 3), name="Input")
    shared = [L.Conv2D(3, 1), L.BatchNormalization(), L.ReLU()]
    tensors = [images]
    for _ in range(data.draw(st.integers(1, 8))):
        some = st.sampled_from(tensors)
        kind = data.draw(st.sampled_from(("shared", "own", "add", "cut")))
        if kind == "add":
            tensors.append(L.Add()([data.draw(some), data.draw(some), data.draw(some)]))
        elif kind == "cut":
            joined = L.Concatenate()([data.draw(some), data.draw(some)])
            tensors.append(L.Conv2D(3, 1, use_bias=False)(joined))
        else:
            layer = data.draw(st.sampled_from(shared)) if kind == "shared" else L.Conv2D(3, 3, padding="same")
            tensors.append(layer(data.draw(some)))
    model = keras.Model(images, {"last": tensors[-1], "middle": tensors[len(tensors) // 2]})
    pixels = np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype("float32")
    tensors = followed(model, pixels)
    expected = model(pixels)
    for name, tensor in named_outputs(model).items():
        np.testing.assert_allclose(np.asarray(tensors[tensor]), np.asarray(expected[name]), atol=1e-5)


def test_a_network_that_cannot_be_followed_is_an_error(monkeypatch):
    images = keras.Input((2,), name="Input")
    model = keras.Model(images, keras.layers.ReLU(name="relu")(images))
    config = model.get_config()
    config["layers"] = config["layers"][1:]  # nothing gives what the other takes
    monkeypatch.setattr(model, "get_config", lambda: config)
    with pytest.raises(ModelError, match="layer relu takes what no layer before it gives"):
        calls(model)

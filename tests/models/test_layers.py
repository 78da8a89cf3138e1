"""Padding, pooling and the units that are not one Keras layer, against arithmetic done here in numpy, float64."""

import keras
import numpy as np
import pytest

from ssd.models.backbones import efficientnet_b0, squeezenet
from ssd.models.layers import Layers
from ssd.spec.config import Regularizer

LAYERS = Layers(Regularizer("none", 0.0))


def windows(image, kernel, stride, top_left=(0, 0), bottom_right=(0, 0)):
    """`(B,h,w,kh,kw,C)`: what each output of a valid convolution sees, behind zeros on the four sides."""
    padding = [(0, 0), *zip(top_left, bottom_right, strict=True), (0, 0)]
    padded = np.pad(np.asarray(image, "float64"), padding)
    view = np.lib.stride_tricks.sliding_window_view(padded, kernel, axis=(1, 2))
    return np.moveaxis(view[:, ::stride, ::stride], 3, -1)


def conv(image, kernel, stride=1):
    """With `k // 2` zeros on every side."""
    size = kernel.shape[:2]
    zeros = tuple(k // 2 for k in size)
    return np.einsum("bhwyxc,yxcf->bhwf", windows(image, size, stride, zeros, zeros), kernel)


def batch_norm(x, layer):
    gamma, beta, mean, variance = (np.asarray(w, "float64") for w in layer.weights)
    return (x - mean) / np.sqrt(variance + 1e-3) * gamma + beta


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def unit(shape, make, seed=0):
    """A model of what `make` puts on an image of `shape`, no weight at its initial value; and an image."""
    rng = np.random.default_rng(seed)
    images = keras.Input(shape)
    model = keras.Model(images, make(images))
    for variable in model.weights:
        if variable.name not in ("kernel", "depthwise_kernel"):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    return model, rng.normal(size=(2, *shape)).astype("float32")


def same(model, image, expected):
    found = np.asarray(model(image))
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=2e-5)


SIZES = [(12, 9), (9, 12), (13, 13), (8, 8)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2), (5, 2), (7, 2)])
def test_convolutions_pad_alike_on_all_sides(size, kernel, stride):
    model, image = unit((*size, 3), lambda x: LAYERS.conv(x, 4, kernel, stride=stride, name="c"))
    expected = conv(image, np.asarray(model.get_layer("c").kernel), stride)
    assert expected.shape[1:3] == tuple(-(-n // stride) for n in size)
    same(model, image, expected)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_convolutions_pad_alike_on_all_sides(size, stride):
    model, image = unit((*size, 3), lambda x: LAYERS.depthwise(x, 3, stride=stride, name="c", pad="c_pad"))
    kernel = np.asarray(model.get_layer("c").weights[0])
    assert [tuple(w.shape) for w in model.get_layer("c").weights] == [(3, 3, 3, 1)]
    seen = windows(image, (3, 3), stride, (1, 1), (1, 1))
    same(model, image, np.einsum("bhwyxc,yxc->bhwc", seen, kernel[..., 0]))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("pool", "stride"), [(2, 2), (3, 2), (3, 1)])
def test_pools_of_two_round_down_and_pools_of_three_up(size, pool, stride):
    model, image = unit((*size, 3), lambda x: LAYERS.max_pool(x, pool, stride, name="p"))
    image = np.maximum(image, 0)
    zeros = ((pool - 1) // 2,) * 2
    expected = windows(image, (pool, pool), stride, zeros, zeros).max(axis=(3, 4))
    assert expected.shape[1:3] == tuple(n // 2 if pool == 2 else -(-n // stride) for n in size)
    same(model, image, expected)


def test_fire_has_its_halves_side_by_side():
    model, image = unit((6, 5, 4), lambda x: squeezenet.fire(x, 3, 5, "fire2", LAYERS))

    def relu_conv(x, name):
        kernel, bias = (np.asarray(w, "float64") for w in model.get_layer(name).weights)
        return np.maximum(conv(x, kernel) + bias, 0)

    squeezed = relu_conv(image, "fire2_squeeze_conv")
    halves = [relu_conv(squeezed, f"fire2_expand_conv{k}x{k}") for k in (1, 3)]
    same(model, image, np.concatenate(halves, axis=-1))


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (5, 1), (3, 2), (5, 2)])
@pytest.mark.parametrize("size", [(8, 8), (7, 10)])
def test_squeeze_and_excitation_behind_a_depthwise_convolution(size, kernel, stride):
    model, image = unit(
        (*size, 6),
        lambda x: efficientnet_b0.depthwise_excite_project(
            x, kernel, stride, squeeze=2, filters=5, name="u_", layers=LAYERS
        ),
    )

    def weights(name):
        return [np.asarray(w, "float64") for w in model.get_layer(f"u_{name}").weights]

    end = kernel // 2
    # At stride 2 an even size has one zero less at its beginning.
    begin = tuple(end - (stride == 2 and n % 2 == 0) for n in size)
    x = np.einsum(
        "bhwyxc,yxc->bhwc", windows(image, (kernel, kernel), stride, begin, (end, end)), weights("dwconv")[0][..., 0]
    )
    x = batch_norm(x, model.get_layer("u_bn"))
    x = x * sigmoid(x)
    mean = x.mean(axis=(1, 2))
    reduce, reduce_bias = weights("se_reduce")
    excite, excite_bias = weights("se_expand")
    hidden = mean @ reduce[0, 0] + reduce_bias
    hidden = hidden * sigmoid(hidden)
    x = x * sigmoid(hidden @ excite[0, 0] + excite_bias)[:, None, None]
    x = batch_norm(conv(x, weights("project_conv")[0]), model.get_layer("u_project_bn"))
    assert x.shape[1:3] == tuple(-(-n // stride) for n in size)
    same(model, image, x)


def test_drop_leaves_out_whole_units_of_single_images_in_training_only():
    keras.utils.set_random_seed(0)
    model, _ = unit((2, 3, 4), lambda x: efficientnet_b0.drop(x, 0.25, "drop"))
    images = np.ones((400, 2, 3, 4), "float32")
    np.testing.assert_array_equal(np.asarray(model(images)), images)
    dropped = np.asarray(model(images, training=True)).reshape(400, -1)
    assert np.all(dropped == dropped[:, :1])
    kept = dropped[:, 0] != 0
    np.testing.assert_allclose(dropped[kept, 0], 1 / 0.75, rtol=1e-6)
    assert 0.68 < kept.mean() < 0.82
    assert not model.weights

"""DSSD: the merging of maps against numpy, names, shapes at any size, and which networks shrink their finest map."""

import keras
import numpy as np
import pytest

from ssd.models.detector import boxes_per_cell, build_detector, feature_map_sizes, summary
from ssd.models.dssd import merge
from ssd.models.layers import Layers
from ssd.spec.config import Regularizer

LAYERS = Layers(Regularizer("none", 0.0))
PER_MODULE = {
    "dssd_large_conv_0_block_{}",
    "dssd_large_bn_0_block_{}",
    "dssd_large_relu_0_block_{}",
    "dssd_large_conv_1_block_{}",
    "dssd_large_bn_1_block_{}",
    "dssd_small_deconv_block_{}",
    "dssd_pad_{}",
    "dssd_small_conv_block_{}",
    "dssd_small_bn_block_{}",
    "dssd_mul_block_{}",
    "dssd_relu_block_{}",
}

OBLONG = [(12, 28), (6, 14), (3, 7), (2, 4), (1, 2), (1, 1)]
ROUNDED_DOWN = [(37, 64), (18, 32), (9, 16), (5, 8), (3, 4), (2, 2)]


def valid_conv(image, kernel):
    view = np.lib.stride_tricks.sliding_window_view(image, kernel.shape[:2], axis=(1, 2))
    return np.einsum("bhwcyx,yxcf->bhwf", view, kernel)


def merged(coarse, fine, layer):
    """The module in numpy; `layer(part)` gives the weights in float64."""

    def padded(x, rows, columns):
        return np.pad(x, [(0, 0), (rows, rows), (columns, columns), (0, 0)])

    def batch_norm(x, part):
        gamma, beta, mean, variance = layer(part)
        return (x - mean) / np.sqrt(variance + 1e-3) * gamma + beta

    x = valid_conv(padded(fine, 1, 1), layer("large_conv_0")[0])
    x = np.maximum(batch_norm(x, "large_bn_0"), 0)
    x = batch_norm(valid_conv(padded(x, 1, 1), layer("large_conv_1")[0]), "large_bn_1")
    batch, height, width, _ = coarse.shape
    kernel = layer("small_deconv")[0]  # (2, 2, out, in): each input cell makes a 2x2 patch of its own
    y = np.einsum("bhwc,yxfc->bhywxf", coarse, kernel).reshape(batch, 2 * height, 2 * width, -1)
    zeros = [1 if doubled <= wanted else 0 for doubled, wanted in zip(y.shape[1:3], fine.shape[1:3], strict=True)]
    y = batch_norm(valid_conv(padded(y, *zeros), layer("small_conv")[0]), "small_bn")
    return np.maximum(x * y, 0)


@pytest.mark.parametrize(
    ("coarse", "fine", "kernel"),
    [
        ((4, 4), (8, 8), (3, 3)),
        ((4, 4), (7, 7), (2, 2)),
        ((3, 3), (7, 7), (2, 2)),
        ((3, 4), (6, 7), (3, 2)),
        ((4, 3), (7, 7), (2, 2)),
        ((1, 1), (1, 2), (2, 3)),
    ],
)
def test_a_map_is_multiplied_with_the_coarser_one_doubled(coarse, fine, kernel):
    rng = np.random.default_rng(0)
    inputs = [keras.Input((*coarse, 5)), keras.Input((*fine, 6))]
    model = keras.Model(inputs, merge(*inputs, 3, LAYERS))
    for variable in model.weights:
        if variable.name != "kernel":
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))

    def layer(part):
        return [np.asarray(w, "float64") for w in model.get_layer(f"dssd_{part}_block_3").weights]

    assert [w.shape for w in layer("small_conv")] == [(*kernel, 6, 6)]
    images = [rng.normal(size=(2, *size)).astype("float32") for size in ((*coarse, 5), (*fine, 6))]
    found = np.asarray(model(images))
    assert found.shape == (2, *fine, 6)
    np.testing.assert_allclose(found, merged(*map(np.float64, images), layer), atol=1e-5)


NETWORKS = [
    ({"nlayers": 10}, (300, 300, 3), [38, 19, 10, 5, 3, 2], 256),
    ({"nlayers": 18}, (128, 128, 1), [16, 8, 4, 2, 1, 1], 128),
    ({"arch": "mobilenet_v1", "nlayers": None}, (128, 128, 3), [16, 8, 4, 2, 1, 1], 256),
    ({"arch": "mobilenet_v2", "nlayers": None}, (300, 300, 1), [38, 19, 10, 5, 3, 2], 256),
    ({"arch": "squeezenet", "nlayers": None}, (96, 224, 3), OBLONG, 256),
    ({"arch": "googlenet", "nlayers": None}, (300, 300, 3), [37, 18, 9, 5, 3, 2], 480),
    ({"arch": "darknet", "nlayers": 19}, (300, 512, 1), ROUNDED_DOWN, 256),
]
if keras.backend.backend() != "tensorflow":
    NETWORKS = NETWORKS[1:3]  # JAX compiles the initialiser of every shape, see test_backbones


@pytest.mark.parametrize(("changes", "shape", "maps", "channels"), NETWORKS)
def test_maps_keep_their_sizes_and_small_networks_shrink_the_finest(network, changes, shape, maps, channels):
    model = build_detector(network(dssd=True, **changes), shape, 3)
    assert feature_map_sizes(model) == [size if isinstance(size, tuple) else (size, size) for size in maps]
    assert boxes_per_cell(model) == [6] * 6
    names = {layer.name for layer in model.layers}
    modules = {name.format(index) for name in PER_MODULE for index in range(5)}
    shrinks = channels == 256 and changes.get("arch") != "darknet"
    assert {name for name in names if name.startswith(("dssd", "ssd_shrink"))} == modules | (
        {"ssd_shrink_block_0"} if shrinks else set()
    )
    assert model.get_layer("ssd_loc_0").input is model.get_layer("dssd_relu_block_4").output
    assert model.get_layer("ssd_loc_0").input.shape[-1] == channels
    coarsest = [name for name in names if name.startswith("ssd_expand_block_") and name.endswith("_relu_1")]
    assert model.get_layer("ssd_loc_5").input is model.get_layer(max(coarsest)).output
    assert summary(model).name == f"dssd_{changes.get('arch', 'resnet')}"
    if shrinks:
        assert [tuple(w.shape)[3:] for w in model.get_layer("ssd_shrink_block_0").weights] == [(256,)]


def test_the_prediction_module_follows_and_all_kernels_are_regularised(network):
    model = build_detector(network(dssd=True, pred_num_channels=256), (128, 128, 3), 3, Regularizer("l1", 1e-4))
    assert model.get_layer("ssd_mpred_conv_0_block_0").input is model.get_layer("dssd_relu_block_4").output
    assert model.get_layer("ssd_mpred_conv_3_block_5").input is model.get_layer("ssd_expand_block_4_relu_1").output
    for layer in model.layers:
        for weight in layer.weights:
            assert (weight.regularizer is not None) == (weight.name == "kernel"), layer.name
            assert weight.name != "bias" or not layer.name.startswith(("dssd", "ssd_mpred", "ssd_shrink"))

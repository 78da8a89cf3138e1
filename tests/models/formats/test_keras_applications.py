"""Keras Applications: the networks there with random weights, saved there, give the same features here.

Where the original toolkit's topology differs from the public network's, Keras' own model is rebuilt with that
difference alone (strides, pooling, padding, ReLU for ReLU6), and Keras computes what is compared. MobileNetV2 (at odd
sizes, activations below 6) and EfficientNetB0 need no rebuilding: there the public function itself is compared.
"""

import re
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from keras import applications
from keras.src.legacy.saving import legacy_h5_format

from ssd.errors import ModelError
from ssd.models.formats import keras_applications
from ssd.models.formats.keras_networks import SOURCES
from ssd.models.formats.source import Row
from ssd.models.formats.weight_file import CONVENTIONS

REAL = Path(__file__).parents[4] / "shared" / "data" / "weights" / "mobilenet_1_0_224_tf.h5"
CAFFE = (103.939, 116.779, 123.68)
GRAY = (127.5,) * 3  # the black of "tf" pixels: our zeros at the border are then theirs


def randomised(model):
    """Random weights everywhere, BN statistics too; activations keep their size from layer to layer."""
    rng = np.random.default_rng(7)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            shape = layer.gamma.shape
            layer.set_weights(
                [rng.uniform(low, high, shape) for low, high in ((0.4, 0.9), (-0.1, 0.3), (-0.2, 0.2), (0.2, 1.2))]
            )
        elif isinstance(layer, keras.layers.Conv2D) and layer.use_bias:
            layer.bias.assign(rng.normal(0, 0.2, layer.bias.shape))
    return model


def rebuilt(model, change):
    """Keras' model with `change(name, config)` applied to its layers' configurations, and its weights."""

    def clone(layer):
        config = layer.get_config()
        replaced = change(layer.name, config)
        return replaced or type(layer).from_config(config)

    copy = keras.models.clone_model(model, clone_function=clone)
    copy.set_weights(model.get_weights())
    return copy


def run(model, names, pixels):
    """Outputs of the layers `names`."""
    part = keras.Model(model.inputs, [model.get_layer(name).output for name in names])
    return part([pixels[None].astype("float32")], training=False)


def saved(model, path, layout="whole"):
    if layout == "weights":
        with h5py.File(path, "w") as file:
            legacy_h5_format.save_weights_to_hdf5_group(file, model)
    elif layout == "numbered":
        path = path.with_suffix(".weights.h5")
        model.save_weights(path)
    else:
        model.save(path)
    return path


def nothing(name):
    return keras.layers.Activation("linear", name=name)


def without_pooling(strides):
    """`strides`: pattern of layers that take over a stride, to it."""

    def change(name, config):
        if "pool" in name:
            return nothing(name)
        for pattern, stride in strides.items():
            if re.fullmatch(pattern, name):
                config["strides"] = (stride, stride)
        return None

    return change


@pytest.mark.filterwarnings("ignore:.*HDF5 file.*")
def test_vgg16_with_strides_for_poolings(tmp_path, features, close, picture):
    model = randomised(applications.VGG16(weights=None, include_top=False, input_shape=(33, 33, 3)))
    path = saved(model, tmp_path / "vgg16.h5", "weights")
    strided = rebuilt(model, without_pooling({r"block[2-5]_conv1": 2}))
    image = picture(33)
    theirs = run(strided, ["block4_conv3", "block5_conv3"], applications.vgg16.preprocess_input(image.copy()))
    close(features(path, "vgg", 16, image, CAFFE), theirs)


def test_resnet50_without_pooling_and_with_other_strides(tmp_path, features, close, picture):
    model = randomised(applications.ResNet50(weights=None, include_top=False, input_shape=(65, 65, 3)))
    path = saved(model, tmp_path / "resnet50.h5", "weights")
    strides = {r"conv2_block1_[01]_conv": 2, r"conv5_block1_[01]_conv": 1}
    strided = rebuilt(model, without_pooling(strides))
    image = picture(65)
    theirs = run(strided, ["conv3_block4_out", "conv5_block3_out"], applications.resnet.preprocess_input(image.copy()))
    close(features(path, "resnet", 50, image, CAFFE), theirs)


def symmetric(name, config):
    """The original toolkit's padding of strided depthwise convolutions, and ReLU without its ceiling."""
    if name.startswith("conv_pad"):
        config["padding"] = ((1, 1), (1, 1))
    if config.get("max_value"):
        config["max_value"] = None


@pytest.fixture(scope="module")
def mobilenet():
    return randomised(applications.MobileNet(weights=None, include_top=False, input_shape=(33, 33, 3)))


def nested(model):
    return keras.Sequential([keras.Input((33, 33, 3)), model, keras.layers.Flatten(), keras.layers.Dense(3)])


@pytest.mark.parametrize("layout", ["weights", "whole", "numbered", "whole, nested", "numbered, nested"])
def test_mobilenet_in_every_layout(layout, mobilenet, tmp_path, features, close, picture):
    model = nested(mobilenet) if "nested" in layout else mobilenet
    path = saved(model, tmp_path / "mobilenet.h5", layout.split(",")[0])
    image = picture(33)
    pixels = applications.mobilenet.preprocess_input(image.copy())
    theirs = run(rebuilt(mobilenet, symmetric), ["conv_pw_5_relu", "conv_pw_11_relu"], pixels)
    close(features(path, "mobilenet_v1", None, image, GRAY), theirs)


def test_mobilenet_v2_as_it_is(tmp_path, features, close, picture):
    """At 65 all of its padding is symmetric."""
    model = randomised(applications.MobileNetV2(weights=None, include_top=False, input_shape=(65, 65, 3)))
    path = saved(model, tmp_path / "mobilenet_v2.h5")
    image = picture(65)
    pixels = applications.mobilenet_v2.preprocess_input(image.copy())
    theirs = run(model, ["block_6_expand_relu", "block_12_add"], pixels)
    assert np.max(theirs[0]) < 6
    close(features(path, "mobilenet_v2", None, image, GRAY), theirs)


@pytest.mark.parametrize("published", [False, True])
def test_efficientnet_b0_as_it_is(published, tmp_path, monkeypatch, features, close, picture, network):
    """The published file holds deviations where variances belong, and Keras makes up for it: so do we."""
    pytest.importorskip("tensorflow")  # Keras' own Normalization needs it, on every backend
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    shape = {"include_top": False, "input_shape": (64, 64, 3)}
    model = randomised(applications.EfficientNetB0(weights=None, **shape))
    norm = next(layer for layer in model.layers if layer.name.startswith("normalization"))
    variance = std if published else std**2
    norm.set_weights([mean, variance, *norm.get_weights()[2:]])
    norm.finalize_state()
    path = saved(model, tmp_path / "efficientnet.h5", "weights")
    if published:
        with monkeypatch.context() as patch:
            patch.setattr("keras.src.applications.efficientnet.file_utils.get_file", lambda *_, **__: str(path))
            model = applications.EfficientNetB0(weights="imagenet", **shape)
    image = picture(64)
    names = ["block4a_expand_activation", "block6a_expand_activation", "top_activation"]
    close(features(path, "efficientnet_b0", None, image, 255 * mean[::-1]), run(model, names, image))
    if not published:
        return
    config = network(arch="efficientnet_b0", nlayers=None)
    assert keras_applications.read(path, config).assumed == ""  # the file says it
    with h5py.File(path, "a") as file:
        file.attrs["layer_names"] = [name for name in file.attrs["layer_names"] if "normalization" not in str(name)]
    bare = keras_applications.read(path, config)
    assert (bare.convention, bare.assumed) == (CONVENTIONS["raw"], "since the file has no normalization layer")


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_every_probe_is_a_layer_that_is_read(source):
    assert source.probe[0] in {row.source for row in source.rows if isinstance(row, Row)}


@pytest.mark.skipif(not REAL.exists(), reason="no public weights at hand")
def test_the_real_mobilenet_fills_the_backbone(features, picture, network):
    layers = keras_applications.read(REAL, network(arch="mobilenet_v1", nlayers=None)).layers
    with h5py.File(REAL) as stored:
        assert np.array_equal(layers["conv_pw_11"][0], stored["conv_pw_11/conv_pw_11/kernel:0"])
        assert np.array_equal(layers["conv_dw_3"][0], stored["conv_dw_3/conv_dw_3/depthwise_kernel:0"])
    maps = features(REAL, "mobilenet_v1", None, picture(33), CAFFE)
    assert all(np.isfinite(tensor).all() and tensor.std() > 0 for tensor in maps)


# --- files that do not fit


def refused(path, network, arch="mobilenet_v1", nlayers=None):
    with pytest.raises(ModelError) as caught:
        keras_applications.read(path, network(arch=arch, nlayers=nlayers))
    assert "\n" not in caught.value.message
    return caught.value.message


def test_a_file_of_another_network_says_whose_it_is(mobilenet, tmp_path, network):
    path = saved(mobilenet, tmp_path / "m.h5", "weights")
    assert "is a Keras Applications MobileNet, the spec says resnet50" in refused(path, network, "resnet", 50)


def test_a_truncated_file_is_damaged(mobilenet, tmp_path, network):
    path = saved(mobilenet, tmp_path / "m.h5", "weights")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert "damaged" in refused(path, network)


def test_a_wider_network_is_told_by_a_kernel(tmp_path, network):
    narrow = applications.MobileNet(weights=None, include_top=False, input_shape=(32, 32, 3), alpha=0.25)
    message = refused(saved(narrow, tmp_path / "m.h5", "weights"), network)
    assert "conv_pw_11 has a kernel of 1x1x128x128, not 1x1x512x512" in message


@pytest.mark.parametrize(
    "layer, array, told",
    [
        ("conv1", np.full((3, 3, 3, 32), np.nan), "conv1 holds NaN"),
        ("conv1", np.ones((27, 32)), "conv1 has the shape (27, 32)"),
        ("conv_dw_3", np.ones((3, 3, 128, 2)), "conv_dw_3 has the shape (3, 3, 128, 2)"),
    ],
)
def test_wrong_values_are_named(layer, array, told, mobilenet, tmp_path, network):
    path = saved(mobilenet, tmp_path / "m.h5", "weights")
    with h5py.File(path, "r+") as file:
        name = file[layer].attrs["weight_names"][0]
        del file[layer][name]
        file[layer][name] = array.astype("float32")
    assert told in refused(path, network)


def test_numbered_files_without_names_say_how_to_get_some(mobilenet, tmp_path, network):
    path = saved(mobilenet, tmp_path / "m.h5", "numbered")
    with h5py.File(path, "r+") as file:
        file.visititems(lambda _, item: item.attrs.pop("name", None) and None)
    assert "keeps no layer names" in refused(path, network)


def test_layers_that_are_absent_are_named_and_the_rest_is_read(mobilenet, tmp_path, network):
    path = saved(mobilenet, tmp_path / "m.h5", "weights")
    with h5py.File(path, "r+") as file:
        names = [name for name in file.attrs["layer_names"] if name not in ("conv_pw_4", b"conv_pw_4")]
        file.attrs["layer_names"] = names
    file = keras_applications.read(path, network(arch="mobilenet_v1", nlayers=None))
    assert file.reasons["conv_pw_4"] == "the file has no conv_pw_4"
    assert "conv_pw_3" in file.layers


def test_a_model_of_unknown_layers_is_refused(tmp_path, network):
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, name="mine")])
    assert "no known network (mine, ...)" in refused(saved(model, tmp_path / "m.h5", "weights"), network)

"""Names, heads, outputs and options of a detector, and what it needs to run."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from ssd.models.detector import anchors_for, boxes_per_cell, build_detector, feature_map_sizes, num_classes
from ssd.spec.config import Regularizer


def test_layer_names_are_those_of_the_original(detector, network):
    names = {layer.name for layer in detector.layers}
    expected = {"Input", "conv1", "bn_conv1"}
    for unit in ("1a", "2a", "3a", "4a"):
        for part in ("conv_1", "bn_1", "relu_1", "conv_2", "bn_2", "conv_shortcut", "bn_shortcut", "relu"):
            expected.add(f"block_{unit}_{part}")
    for block in range(1, 5):
        for part in ("conv_0", "relu_0", "conv_1", "bn_1", "relu_1"):
            expected.add(f"ssd_expand_block_{block}_{part}")
    for index in range(6):
        expected |= {f"ssd_conf_{index}", f"ssd_loc_{index}", f"conf_reshape_{index}", f"loc_reshape_{index}"}
    expected |= {"mbox_conf", "mbox_loc"}
    assert expected <= names
    # Whatever is more has no weights, and no automatic name that depends on what was built before.
    rest = {layer.name: layer for layer in detector.layers if layer.name not in expected}
    assert not any(layer.weights for layer in rest.values())
    again = build_detector(network(), (128, 128, 3), 3)
    assert [layer.name for layer in again.layers] == [layer.name for layer in detector.layers]


def test_weights_have_the_original_layout(detector):
    def shapes(name):
        return [tuple(variable.shape) for variable in detector.get_layer(name).weights]

    assert shapes("conv1") == [(7, 7, 3, 64)]
    assert shapes("bn_conv1") == [(64,)] * 4
    assert [w.name for w in detector.get_layer("bn_conv1").weights] == [
        "gamma",
        "beta",
        "moving_mean",
        "moving_variance",
    ]
    assert shapes("ssd_conf_0") == [(3, 3, 128, 24), (24,)]
    assert shapes("ssd_expand_block_1_conv_0") == [(1, 1, 512, 64), (64,)]
    assert shapes("ssd_expand_block_1_conv_1") == [(3, 3, 64, 128)]


def test_outputs_are_float32_and_ordered_map_row_column_box(detector, images):
    outputs = detector(images)
    maps = feature_map_sizes(detector)
    assert maps == [(16, 16), (8, 8), (4, 4), (2, 2), (1, 1), (1, 1)]
    anchors = 6 * sum(h * w for h, w in maps)
    assert set(outputs) == {"class_logits", "offsets"}
    assert outputs["class_logits"].shape == (2, anchors, 4)
    assert outputs["offsets"].shape == (2, anchors, 4)
    heads = keras.Model(detector.input, [detector.get_layer(f"ssd_{kind}_1").output for kind in ("conf", "loc")])
    conf, loc = (np.asarray(value) for value in heads(images))
    # map 1, row 5, column 2, box 3
    anchor = 6 * 16 * 16 + 6 * (5 * 8 + 2) + 3
    np.testing.assert_array_equal(np.asarray(outputs["class_logits"])[1, anchor], conf[1, 5, 2, 12:16])
    np.testing.assert_array_equal(np.asarray(outputs["offsets"])[1, anchor], loc[1, 5, 2, 12:16])


def test_heads_start_without_bias_and_wide(network):
    model = build_detector(network(), (128, 128, 3), 3)
    head = model.get_layer("ssd_conf_1")
    assert not np.any(np.asarray(head.bias))
    kernel = np.asarray(head.kernel)  # He: a standard deviation of sqrt(2 / fan in)
    assert np.std(kernel) == pytest.approx(np.sqrt(2 / (9 * 512)), rel=0.02)
    assert model.get_layer("conv1").get_config()["kernel_initializer"]["class_name"] == "GlorotUniform"
    bn = model.get_layer("bn_conv1")
    assert (bn.epsilon, bn.momentum) == (1e-3, 0.99)


def test_feature_maps_may_have_different_numbers_of_boxes_and_the_input_may_be_gray_and_oblong(network):
    ratios = ((1.0,), (1.0, 2.0), (2.0, 0.5), (1.0, 2.0, 0.5), (1.0,), (3.0,))
    model = build_detector(network(aspect_ratios=ratios), (160, 224, 1), 5)
    assert boxes_per_cell(model) == [2, 3, 2, 4, 2, 1]
    assert feature_map_sizes(model) == [(20, 28), (10, 14), (5, 7), (3, 4), (2, 2), (1, 1)]
    assert num_classes(model) == 5
    anchors = sum(h * w * n for (h, w), n in zip(feature_map_sizes(model), boxes_per_cell(model), strict=True))
    assert model.output["class_logits"].shape == (None, anchors, 6)
    assert tuple(model.get_layer("conv1").kernel.shape) == (7, 7, 1, 64)


def test_anchors_fit_the_outputs(detector, network):
    class Spec:
        pass

    spec = Spec()
    spec.network = network()
    anchors = anchors_for(detector, spec)
    assert anchors.shape == (detector.output["offsets"].shape[1], 4)
    assert anchors.dtype == np.float32
    center = anchors[0].reshape(2, 2).mean(axis=0)
    np.testing.assert_allclose(center, 0.5 / 16, atol=1e-6)


def test_prediction_module(network):
    model = build_detector(network(pred_num_channels=256), (128, 128, 3), 3)
    names = {layer.name for layer in model.layers}
    for index in range(6):
        for part in ("conv_0", "conv_1", "conv_2", "conv_3", "bn_0", "bn_3", "relu_0", "relu_1", "relu_3", "add"):
            assert f"ssd_mpred_{part}_block_{index}" in names

    def kernel(name):
        return tuple(model.get_layer(name).kernel.shape)

    assert kernel("ssd_mpred_conv_0_block_0") == (1, 1, 128, 64)
    assert kernel("ssd_mpred_conv_1_block_0") == (1, 1, 64, 64)
    assert kernel("ssd_mpred_conv_2_block_0") == (1, 1, 64, 256)
    assert kernel("ssd_mpred_conv_3_block_0") == (1, 1, 128, 256)
    assert kernel("ssd_loc_5") == (3, 3, 256, 24)
    assert not model.get_layer("ssd_mpred_conv_2_block_0").use_bias


@pytest.mark.parametrize(("kind", "norm"), [("l1", np.abs), ("l2", np.square), ("none", None)])
def test_regulariser_is_on_the_kernels_of_all_convolutions_and_on_nothing_else(network, scramble, kind, norm):
    model = scramble(network(pred_num_channels=256), (128, 128, 3), regularizer=Regularizer(kind, 3e-4))
    if norm is None:
        assert model.losses == []
        return
    kernels = [np.asarray(w, "float64") for w in model.trainable_variables if w.name == "kernel"]
    assert len(model.losses) == len(kernels) == sum(isinstance(layer, keras.layers.Conv2D) for layer in model.layers)
    expected = 3e-4 * sum(norm(kernel).sum() for kernel in kernels)
    assert sum(float(loss) for loss in model.losses) == pytest.approx(expected, rel=1e-5)


def test_mixed_precision_keeps_input_and_outputs_float32(network, detector, images):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = build_detector(network(), (128, 128, 3), 3)
    finally:
        keras.config.set_dtype_policy(before)
    model.set_weights(detector.get_weights())
    assert model.get_layer("block_2a_conv_1").compute_dtype == "bfloat16"
    assert {keras.backend.standardize_dtype(variable.dtype) for variable in model.weights} == {"float32"}
    outputs, exact = model(images), detector(images)
    for name, value in outputs.items():
        assert keras.backend.standardize_dtype(value.dtype) == "float32"
        scale = np.abs(np.asarray(exact[name])).max()
        np.testing.assert_allclose(np.asarray(value), np.asarray(exact[name]), atol=0.05 * scale)


WITHOUT_TENSORFLOW = """
import sys
sys.modules["tensorflow"] = None
import dataclasses, pkgutil, importlib
import ssd.boxes, ssd.models
for package in (ssd.boxes, ssd.models):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
import ssd.training.loss
from ssd.models.detector import build_detector, summary
from ssd.spec.config import Network
network = Network(False, "resnet", 10, ((1.0, 2.0),) * 6, (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7), True, None, None,
                  False, (0.1, 0.1, 0.2, 0.2), 0, 1.0, 3.0, 0.5, 0.5, (), False)
print(summary(build_detector(network, (128, 128, 3), 3)).non_trainable)
assert not any(name.split(".")[0] == "tensorflow" for name, module in sys.modules.items() if module)
"""


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="TensorFlow is kept out of this whole process already")
def test_the_core_runs_where_tensorflow_is_not_installed():
    pytest.importorskip("jax")
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_TENSORFLOW], env=environment, capture_output=True, text=True, timeout=600
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["6912"]

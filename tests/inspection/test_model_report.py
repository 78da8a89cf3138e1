"""Multiply-accumulates and memory by hand; the parts of a detector add up to it."""

import keras
import numpy as np
import pytest

from ssd.inspection import model_report
from ssd.inspection.memory import LOSS_COPIES, PASSING, WAITING_BATCHES, estimate_memory, kept_activations
from ssd.models.detector import build_detector, summary
from ssd.models.freeze import apply_freezing


@pytest.mark.parametrize("changes", [{}, {"pred_num_channels": 256, "freeze_blocks": (0, 1)}], ids=["plain", "frozen"])
def test_the_parts_add_up_to_the_model(network, changes):
    config = network(**changes)
    model = build_detector(config, (128, 128, 3), 3)
    apply_freezing(model, config)
    report = model_report.inspect_model(model, config)
    about = summary(model)
    assert report.parameters == about.parameters
    assert report.parameters - report.trainable == about.non_trainable
    assert report.anchors == about.anchors
    names = [part.name for part in report.parts]
    assert names[:5] == [f"backbone block {index}" for index in range(5)]
    assert names[-1] == "heads"
    assert "backbone, in no block" not in names
    assert ("prediction module" in names) == bool(config.pred_num_channels)
    for part in report.parts[:2]:
        assert (part.trainable == 0) == bool(config.freeze_blocks)
    assert [(each.height, each.width) for each in report.maps] == list(about.feature_maps)
    # The stem: 7x7 kernels on 64x64 places.
    assert report.parts[0].macs == 64 * 64 * 64 * 7 * 7 * 3
    memory = estimate_memory(model, 2, optimizer_entries=0, average=False)
    printed = model_report.text(report, memory)
    assert f"{report.parameters:,}" in printed
    assert model_report.as_json(report, memory)["macs"] == report.macs


def small():
    x = inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, padding="same", use_bias=False)(x)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.ReLU()(x)
    y = keras.layers.Conv2D(4, 1, use_bias=True)(x)
    x = keras.layers.Add()([x, y])
    x = keras.layers.ZeroPadding2D(1)(x)
    x = keras.layers.Conv2D(2, 3, strides=2)(x)
    return keras.Model(inputs, keras.layers.Reshape((-1, 2))(x))


def test_memory_by_hand():
    model = small()
    plane = 8 * 8
    # The image (for the first convolution), what goes into BN, what ReLU gives, the padded sum.
    kept = plane * 3 + plane * 4 + plane * 4 + 10 * 10 * 4
    assert sum(kept_activations(model).values()) == kept
    memory = estimate_memory(model, 5, optimizer_entries=77, average=True)
    trained = 3 * 3 * 3 * 4 + 8 + (4 * 4 + 4) + (3 * 3 * 4 * 2 + 2)
    assert memory.weights == memory.average == 4 * (trained + 8)
    assert memory.gradients == 4 * trained
    assert memory.optimizer == 4 * 77
    assert memory.activations == 4 * 5 * kept
    assert memory.transient == 5 * 4 * (PASSING * 10 * 10 * 4 + LOSS_COPIES * 4 * 4 * 2)
    assert memory.images == 5 * plane * 3 * (4 + 1 + WAITING_BATCHES)  # in float32, and as bytes
    assert memory.total == sum(vars(memory).values())
    half = estimate_memory(model, 5, optimizer_entries=77, average=False, compute_bytes=2)
    assert (half.activations, half.average, half.weights) == (memory.activations // 2, 0, memory.weights)


def test_nothing_is_kept_below_the_first_trained_layer():
    model = small()
    for layer in model.layers[:4]:
        layer.trainable = False
    # The second convolution needs what ReLU gave, the last one the padded sum.
    assert sum(kept_activations(model).values()) == 8 * 8 * 4 + 10 * 10 * 4
    model.trainable = False
    assert kept_activations(model) == {}
    assert np.isfinite(estimate_memory(model, 1, optimizer_entries=0, average=False).total)

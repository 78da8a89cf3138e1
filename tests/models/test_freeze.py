"""What is frozen does not move by a bit, and the rest does."""

import keras
import numpy as np
import pytest

from ssd.errors import SpecError
from ssd.models.freeze import apply_freezing


def train_a_step(model, images):
    """One step of SGD that moves every weight it may: the loss is the distance to random outputs."""
    rng = np.random.default_rng(0)
    targets = {
        name: rng.normal(size=(len(images), *value.shape[1:])).astype("float32") for name, value in model.output.items()
    }
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), loss=dict.fromkeys(targets, "mse"), jit_compile=False)
    before = {layer.name: [np.asarray(w).copy() for w in layer.weights] for layer in model.layers}
    model.train_on_batch(images / 50, targets)
    return {
        f"{layer.name}/{variable.name}"
        for layer in model.layers
        for variable, old in zip(layer.weights, before[layer.name], strict=True)
        if not np.array_equal(np.asarray(variable), old)
    }


def every_weight(model, keep=lambda name: True):
    return {f"{layer.name}/{w.name}" for layer in model.layers for w in layer.weights if keep(layer.name)}


def test_nothing_is_frozen_by_default(network, detector):
    assert apply_freezing(detector, network()) == []
    assert detector.non_trainable_variables == [w for w in detector.weights if w.name.startswith("moving_")]


def test_frozen_blocks_keep_convolutions_and_batch_norm(network, scramble, images):
    model = scramble(network(), (128, 128, 3))
    # Freezing is a function of the spec, not of what was frozen before.
    apply_freezing(model, network(freeze_blocks=(1, 2, 3, 4), freeze_bn=True))
    frozen = apply_freezing(model, network(freeze_blocks=(0, 2)))

    def in_block(name):
        return name in ("conv1", "bn_conv1") or name.startswith("block_2a_")

    assert set(frozen) == {layer.name for layer in model.layers if layer.weights and in_block(layer.name)}
    assert train_a_step(model, images) == every_weight(model, lambda name: not in_block(name))


def test_freeze_bn_keeps_scale_shift_and_statistics_of_the_backbone_only(network, scramble, images):
    model = scramble(network(pred_num_channels=256), (128, 128, 3))
    apply_freezing(model, network(freeze_bn=True))

    def backbone_bn(name):
        return "bn" in name and not name.startswith("ssd_")

    moved = train_a_step(model, images)
    assert moved == every_weight(model, lambda name: not backbone_bn(name))
    assert "ssd_expand_block_1_bn_1/moving_mean" in moved
    assert "ssd_mpred_bn_0_block_0/gamma" in moved


def test_an_unknown_block_is_named_with_the_valid_ones(network, detector):
    with pytest.raises(SpecError) as caught:
        apply_freezing(detector, network(freeze_blocks=(1, 5, 7)))
    assert str(caught.value) == "freeze_blocks: resnet10 has no block 5, 7\n    its blocks are 0, 1, 2, 3, 4"

"""The smaller network: filters of zeros go without a trace, and counts keep the rules, whatever the graph."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssd.errors import InputError
from ssd.models.detector import build_detector
from ssd.pruning.importance import CRITERIA
from ssd.pruning.plan import Pruner, Rules

L = keras.layers


def randomize(model, rng):
    """Weights without zeros; BN that leaves a channel of zeros alone."""
    for layer in model.layers:
        if isinstance(layer, L.BatchNormalization):
            gamma, _, _, variance = (rng.uniform(0.5, 1.5, w.shape) for w in layer.get_weights())
            layer.set_weights([gamma, np.zeros_like(gamma), np.zeros_like(gamma), variance])
        elif layer.weights:
            layer.set_weights([rng.normal(size=w.shape) + np.sign(rng.normal()) * 0.1 for w in layer.get_weights()])


def zero(layer, channels):
    axis = 2 if isinstance(layer, L.DepthwiseConv2D | L.Conv2DTranspose) else 3
    kernel, *bias = layer.get_weights()
    np.moveaxis(kernel, axis, 0)[channels] = 0
    for vector in bias:
        vector[channels] = 0
    layer.set_weights([kernel, *bias])


def outputs(model, images):
    return {name: np.asarray(value) for name, value in model(images, training=False).items()}


@pytest.mark.parametrize("criterion", CRITERIA)
def test_filters_of_zeros_go_without_a_trace(criterion, grow):
    @settings(max_examples=15)
    @given(data=st.data(), seed=st.integers(0, 1000))
    def check(data, seed):
        model, rng = grow(data.draw), np.random.default_rng(seed)
        randomize(model, rng)
        rules = Rules("max", criterion, data.draw(st.integers(1, 3)), data.draw(st.integers(1, 2)))
        emptied = 0
        for group in Pruner(model, rules).channels.groups:
            places = np.flatnonzero(rng.random(len(group.ids)) < 0.4)
            for member in () if group.whole else group.members:
                zero(model.get_layer(member.layer), member.channels[places])
                emptied += len(places)
        if criterion == "union":  # one member of a group that still counts keeps the others
            for layer in model.layers:
                if isinstance(layer, L.Conv2D) and rng.random() < 0.3:
                    zero(layer, np.flatnonzero(rng.random(layer.filters) < 0.3))
        images = rng.normal(size=(2, 8, 8, 3)).astype("float32")
        before = outputs(model, images)
        pruner = Pruner(model, rules)
        pruned = pruner.prune(1e-6)
        scale = max(1.0, *(float(np.abs(value).max()) for value in before.values()))
        for name, value in outputs(pruned, images).items():
            np.testing.assert_allclose(value / scale, before[name] / scale, atol=1e-5)
        assert pruned.count_params() == round(pruner.share(1e-6) * model.count_params())
        if emptied > 30 and rules.granularity == 1 == rules.minimum:
            assert pruned.count_params() < model.count_params()

    check()


NETWORKS = [
    ("resnet", 18, False),
    ("mobilenet_v2", None, False),
    ("efficientnet_b0", None, False),
    ("resnet", 10, True),
]


@pytest.mark.parametrize(("arch", "nlayers", "dssd"), NETWORKS, ids=lambda value: str(value))
def test_detectors_keep_granularity_minimum_and_heads(arch, nlayers, dssd, network):
    config = network(arch=arch, nlayers=nlayers, dssd=dssd, pred_num_channels=256 if dssd else 0)
    model = build_detector(config, (128, 128, 3), 3)
    pruner = Pruner(model, Rules())
    threshold = pruner.threshold_for(0.5)
    pruned = pruner.prune(threshold)
    # The last threshold above: one step less leaves more than was asked for.
    assert pruned.count_params() <= 0.5 * model.count_params() < 1.02 * pruned.count_params()
    assert pruner.share(np.nextafter(threshold, 0)) > 0.5
    assert pruned.output_shape == model.output_shape
    for layer in pruned.layers:
        if isinstance(layer, L.Conv2D | L.Conv2DTranspose):
            before = model.get_layer(layer.name).filters
            if layer.name.startswith(("ssd_conf", "ssd_loc")):
                assert layer.filters == before
            assert layer.filters % 8 == 0 or layer.filters == before
            assert layer.filters >= min(16, before)
    again = Pruner(pruned, Rules())
    assert again.prune(again.threshold_for(0.8)).count_params() < pruned.count_params()


def test_names_regularizers_and_freezing_stay(network):
    from ssd.spec.config import Regularizer

    model = build_detector(network(), (128, 128, 3), 3, Regularizer("l1", 1e-3))
    model.get_layer("block_1a_conv_1").trainable = False
    pruned = Pruner(model, Rules()).prune(0.97)
    assert [layer.name for layer in pruned.layers] == [layer.name for layer in model.layers]
    assert not pruned.get_layer("block_1a_conv_1").trainable
    assert float(pruned.get_layer("block_2a_conv_1").kernel_regularizer.l1) == pytest.approx(1e-3)


def chain(*filters):
    x = images = keras.Input((4, 4, 3))
    for index, number in enumerate(filters):
        x = L.Conv2D(number, 1, name=f"c{index}")(x)
    return keras.Model(images, x)


def test_a_threshold_that_leaves_nothing_names_the_layer():
    model = chain(8, 2)
    kernel = np.ones((1, 1, 3, 8)) * np.linspace(0.1, 1, 8)
    model.get_layer("c0").set_weights([kernel, np.zeros(8)])
    assert Pruner(model, Rules(minimum=0, granularity=1)).prune(0.99).get_layer("c0").filters == 1
    model.get_layer("c0").set_weights([kernel * 0, np.zeros(8)])
    with pytest.raises(InputError, match="nothing is left of c0"):
        Pruner(model, Rules(minimum=0)).prune(0.1)


@pytest.mark.parametrize(("normalizer", "criterion"), [("max", "union"), ("L2", "arithmetic_mean")])
def test_a_ratio_without_a_minimum_leaves_a_filter_everywhere(normalizer, criterion):
    """Where a layer would lose all its filters no threshold is, whichever the search comes by."""
    model, rng = chain(16, 16, 16, 2), np.random.default_rng(0)
    randomize(model, rng)
    kernel, bias = model.get_layer("c1").get_weights()
    model.get_layer("c1").set_weights([np.sign(kernel), bias])  # all or none
    pruner = Pruner(model, Rules(normalizer, criterion, granularity=1, minimum=0))
    threshold = pruner.threshold_for(0.5)
    assert pruner.share(threshold) <= 0.5 < pruner.share(np.nextafter(threshold, 0))
    assert all(layer.filters for layer in pruner.prune(threshold).layers if isinstance(layer, L.Conv2D))
    with pytest.raises(InputError, match=r"at most .* can go"):
        pruner.threshold_for(0.01)


def test_a_ratio_out_of_reach_says_what_can_be_reached():
    with pytest.raises(InputError, match=r"at most .* can go"):
        Pruner(chain(64, 64, 2), Rules(minimum=48)).threshold_for(0.05)
    assert Pruner(chain(64, 64, 2), Rules()).threshold_for(1.0) == 0

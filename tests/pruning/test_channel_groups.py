"""Which channels are bound: the original toolkit's networks by their structure, random joins against a plain search."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssd.errors import ModelError
from ssd.models.detector import build_detector
from ssd.pruning.channel_groups import _roots, channel_groups

L = keras.layers


def names(model, **arguments):
    """The groups as sets of layer names, those that must stay whole marked by their reason."""
    return {
        frozenset(m.layer for m in group.members): group.whole for group in channel_groups(model, **arguments).groups
    }


@pytest.fixture
def detector(network):
    return lambda **changes: build_detector(network(**changes), (128, 128, 3), 3)


def test_a_resnet_unit_binds_its_last_convolution_and_its_shortcut(detector):
    groups = names(detector(nlayers=18))
    for unit in ("block_1a", "block_3b"):
        assert frozenset((f"{unit}_conv_2", f"{unit}_conv_shortcut")) in groups
        assert frozenset((f"{unit}_conv_1",)) in groups
    assert groups[frozenset(("ssd_conf_0",))]
    assert not groups[frozenset(("ssd_expand_block_1_conv_1",))]


def test_mobilenet_v2_binds_depthwise_to_expansion_and_projections_to_each_other(detector):
    groups = names(detector(arch="mobilenet_v2", nlayers=None))
    assert frozenset(("block_3_expand", "block_3_depthwise")) in groups
    assert frozenset(("conv1", "expanded_conv_depthwise")) in groups
    assert frozenset(("block_4_project", "block_4_projected_inputs")) in groups
    assert frozenset(("block_3_project",)) in groups


def test_a_darknet53_stage_is_one_group_by_its_chain_of_additions(detector):
    groups = names(detector(arch="darknet", nlayers=53))
    assert frozenset(("conv4", *(f"b3_conv{i}_2" for i in range(1, 9)))) in groups
    assert frozenset(("b3_conv5_1",)) in groups


def test_concatenations_bind_nothing(detector):
    groups = names(detector(arch="googlenet", nlayers=None))
    assert frozenset(("inception_3a_1x1",)) in groups
    assert frozenset(("inception_4c_pool_proj",)) in groups


def test_squeeze_and_excitation_binds_its_last_convolution_to_what_it_excites(detector):
    groups = names(detector(arch="efficientnet_b0", nlayers=None))
    assert frozenset(("block3a_expand_conv", "block3a_dwconv", "block3a_se_expand")) in groups
    assert frozenset(("block3a_se_reduce",)) in groups
    assert frozenset(("block4a_project_conv", "block4b_project_conv", "block4c_project_conv")) in groups


def test_the_branches_of_a_dssd_product_are_bound(detector):
    groups = names(detector(dssd=True))
    assert frozenset(("dssd_large_conv_1_block_2", "dssd_small_conv_block_2")) in groups
    assert frozenset(("dssd_small_deconv_block_2",)) in groups


def test_a_concatenation_that_is_added_binds_parts():
    images = keras.Input((4, 4, 3))
    a, b = (L.Conv2D(n, 1, name=name)(images) for n, name in ((2, "a"), (3, "b")))
    c = L.Conv2D(5, 1, name="c")(images)
    model = keras.Model(images, L.Conv2D(2, 1, name="out")(L.Add()([L.Concatenate()([a, b]), c])))
    found = channel_groups(model).groups
    groups = [{member.layer: member.channels.tolist() for member in group.members} for group in found]
    assert {"a": [0, 1], "c": [0, 1]} in groups
    assert {"b": [0, 1, 2], "c": [2, 3, 4]} in groups


def test_an_excluded_layer_keeps_those_that_are_bound_to_it_whole():
    images = keras.Input((4, 4, 3))
    a, b = (L.Conv2D(4, 1, name=name)(images) for name in "ab")
    c = L.Conv2D(4, 1, name="c")(L.BatchNormalization(name="norm")(L.Add()([a, b])))
    model = keras.Model(images, L.Conv2D(2, 1, name="out")(c))
    free = names(model)
    assert not free[frozenset("ab")]
    assert free[frozenset(("out",))] == "an output of the network"
    for layer in ("a", "norm"):
        groups = names(model, excluded=[layer])
        assert groups[frozenset("ab")] == "excluded"
        assert not groups[frozenset("c")]


def test_one_channel_spread_over_others_stays():
    images = keras.Input((4, 4, 3))
    a, b = L.Conv2D(4, 1, name="a")(images), L.Conv2D(1, 1, name="b")(images)
    groups = names(keras.Model(images, L.Conv2D(2, 1)(L.Multiply()([a, b]))))
    assert not groups[frozenset("a")]
    assert "spread" in groups[frozenset("b")]


def test_what_a_reshape_mixes_stays_whole():
    images = keras.Input((4, 4, 3))
    x = L.Reshape((4, 2, 8))(L.Conv2D(4, 1, name="a")(images))
    groups = names(keras.Model(images, L.Conv2D(2, 1)(x)))
    assert "reshaped by" in groups[frozenset("a")]


UNKNOWN = {
    "LayerNormalization": lambda x: L.LayerNormalization(name="odd")(x),
    "SeparableConv2D": lambda x: L.SeparableConv2D(4, 3, name="odd")(x),
    "Lambda": lambda x: L.Lambda(lambda y: y, name="odd")(x),
    "2 groups": lambda x: L.Conv2D(4, 1, groups=2, name="odd")(x),
    "depth multiplier of 2": lambda x: L.DepthwiseConv2D(3, depth_multiplier=2, name="odd")(x),
    "Activation": lambda x: L.Activation("softmax", name="odd")(x),
    "softmax": lambda x: L.Conv2D(4, 1, activation="softmax", name="odd")(x),
    "Permute": lambda x: L.Permute((3, 1, 2), name="odd")(x),
}


@pytest.mark.parametrize("what", UNKNOWN)
def test_layers_whose_channels_cannot_be_followed_are_refused_by_name(what):
    images = keras.Input((4, 4, 4))
    model = keras.Model(images, L.Conv2D(2, 1)(UNKNOWN[what](L.Conv2D(4, 1)(images))))
    with pytest.raises(ModelError, match=what) as error:
        channel_groups(model)
    assert "layer odd" in error.value.message


@given(st.integers(1, 30).flatmap(lambda n: st.lists(st.tuples(*[st.integers(0, n - 1)] * 2), max_size=40)))
def test_roots_are_the_smallest_of_all_that_is_connected(pairs):
    count = 1 + max((max(pair) for pair in pairs), default=0)
    neighbours = {i: {i} for i in range(count)}
    for one, other in pairs:
        neighbours[one].add(other)
        neighbours[other].add(one)

    def reach(start):
        seen, waiting = set(), [start]
        while waiting:
            if (node := waiting.pop()) not in seen:
                seen.add(node)
                waiting += neighbours[node]
        return min(seen)

    bound = [tuple(np.array([end]) for end in pair) for pair in pairs]
    assert _roots(count, bound).tolist() == [reach(node) for node in range(count)]

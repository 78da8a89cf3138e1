"""Which files are pruned networks: by the filters of their layers, and by what their spec says of modules."""

import keras
import numpy as np
import pytest

from ssd.errors import ModelError
from ssd.models.widths import pruned_widths

FILTERS = {"conv1": 16, "conv2": 16, "ssd_mpred_conv_0_0": 32, "ssd_mpred_conv_0_1": 128}


@pytest.fixture(scope="module")
def model():
    x = images = keras.Input((4, 4, 3))
    for name, filters in FILTERS.items():
        x = keras.layers.Conv2D(filters, 1, name=name)(x)
    return keras.Model(images, x)


def file_of(**filters):
    """Layer name -> kernel, as far as filters go."""
    return {name: (np.zeros((1, 1, 1, number)),) for name, number in {**FILTERS, **filters}.items()}


MODULES = {"ssd_mpred_conv_0_0": 16, "ssd_mpred_conv_0_1": 64}  # halves of both


@pytest.mark.parametrize(
    ("filters", "same_modules", "expected"),
    [
        ({}, True, {}),
        ({"conv1": 8}, True, {"conv1": 8}),
        ({"conv1": 24}, True, {}),
        (MODULES, None, {}),  # a file that does not say may be of another pred_num_channels
        (MODULES, True, MODULES),
        (MODULES, False, {}),
        ({"conv1": 8, **MODULES}, False, {"conv1": 8}),
        ({"conv1": 8, "ssd_mpred_conv_0_0": 64, "ssd_mpred_conv_0_1": 256}, None, {"conv1": 8}),
    ],
)
def test_narrower_layers_are_pruned_ones_but_for_modules_of_another_size(model, filters, same_modules, expected):
    assert pruned_widths(file_of(**filters), model, same_modules) == expected


def test_narrower_here_and_wider_there_is_an_error_that_names_both(model):
    with pytest.raises(ModelError, match=r"fewer filters \(conv1: 8 of 16\), others more \(conv2: 24 of 16\)"):
        pruned_widths(file_of(conv1=8, conv2=24), model, True)

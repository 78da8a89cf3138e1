"""Specs by hand and small detectors, shared by the tests of networks and model files."""

import dataclasses

import numpy as np
import pytest

from ssd.spec.config import Network

NETWORK = Network(
    dssd=False,
    arch="resnet",
    nlayers=10,
    aspect_ratios=((1.0, 2.0, 0.5, 3.0, 1 / 3),) * 6,
    scales=(0.05, 0.1, 0.25, 0.4, 0.55, 0.7, 0.85),
    two_boxes_for_ar1=True,
    steps=None,
    offsets=None,
    clip_boxes=False,
    variances=(0.1, 0.1, 0.2, 0.2),
    pred_num_channels=0,
    alpha=1.0,
    neg_pos_ratio=3.0,
    pos_iou_thresh=0.5,
    neg_iou_thresh=0.5,
    freeze_blocks=(),
    freeze_bn=False,
)


@pytest.fixture(scope="session")
def network():
    """`network(nlayers=18, ...)`: `ssd_config` with these fields changed."""
    return lambda **changes: dataclasses.replace(NETWORK, **changes)


@pytest.fixture(scope="session")
def detector(network):
    """A ResNet-10 detector at 128 x 128 for 3 classes whose every weight is random. Not to be changed."""
    return scrambled(network(), (128, 128, 3))


@pytest.fixture(scope="session")
def images():
    return np.random.default_rng(1).normal(0, 50, (2, 128, 128, 3)).astype("float32")


@pytest.fixture(scope="session")
def scramble():
    return scrambled


def scrambled(network, input_shape, **options):
    """A detector with no weight at its initial value, so that a weight lost on the way shows."""
    import keras

    from ssd.models.detector import build_detector

    keras.utils.set_random_seed(1)
    model = build_detector(network, input_shape, 3, **options)
    rng = np.random.default_rng(2)
    for variable in model.weights:
        value = np.asarray(variable)
        if value.ndim == 1:
            variable.assign(rng.uniform(0.5, 1.5, value.shape))
    return model

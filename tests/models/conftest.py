"""Small detectors, shared by the tests of networks and model files."""

import numpy as np
import pytest


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

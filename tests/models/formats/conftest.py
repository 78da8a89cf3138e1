"""Backbones by themselves, and weights loaded into them as a training would."""

import numpy as np
import pytest


@pytest.fixture(scope="session")
def state_dicts():
    """The public networks' state dicts, by name."""
    from state_dicts import BUILDERS

    return BUILDERS


@pytest.fixture(scope="session")
def backbone_model():
    """`backbone_model("resnet", 18, 65)`: from pictures of 65 x 65 to its feature maps and last tensor."""
    import keras

    from ssd.models.backbones import backbone
    from ssd.models.layers import Layers
    from ssd.spec.config import Regularizer

    def build(arch, nlayers, size):
        images = keras.Input((size, size, 3))
        maps, last = backbone(arch, nlayers).build(images, Layers(Regularizer("none", 0.0)), nlayers)
        return keras.Model(images, [*maps, last])

    return build


@pytest.fixture(scope="session")
def features(backbone_model, network):
    """`features(path, "resnet", 18, picture, mean)`: features of an RGB picture `(H,H,3)` by the weights of a file.

    The backbone gets the picture as BGR minus `mean`. The file has to have every tensor of it.
    """
    from ssd.models.backbones import backbone
    from ssd.models.pretrained import Convention, read_weights, transfer

    def compute(path, arch, nlayers, picture, mean):
        model = backbone_model(arch, nlayers, picture.shape[0])
        file = read_weights(path, network(arch=arch, nlayers=nlayers))
        own = Convention("bgr", 1.0, tuple(mean), (1.0, 1.0, 1.0))
        report = transfer(file, model, backbone(arch, nlayers), own)
        assert report.complete, report.lines("file")
        ours = picture[None, ..., ::-1].astype("float32") - np.asarray(mean, "float32")
        return [np.asarray(tensor) for tensor in model(ours, training=False)]

    return compute


@pytest.fixture(scope="session")
def close():
    """Features alike to 1e-4 of the largest, and worth comparing."""

    def check(ours, theirs):
        assert len(ours) == len(theirs)
        for mine, other in zip(ours, theirs, strict=True):
            other = np.asarray(other)
            assert mine.shape == other.shape
            assert other.std() > 0 and (other != 0).mean() > 0.05
            assert np.abs(mine - other).max() <= 1e-4 * np.abs(other).max()

    return check


@pytest.fixture
def picture():
    """`picture(65)`: RGB, 0..255, smooth and noisy parts."""

    def make(size):
        rng = np.random.default_rng(size)
        y, x = np.mgrid[:size, :size] / size
        smooth = 127 + 120 * np.stack([np.sin(7 * x), np.cos(5 * y), np.sin(4 * x + 3 * y)], -1)
        return np.clip(smooth + rng.normal(0, 25, smooth.shape), 0, 255).round()

    return make

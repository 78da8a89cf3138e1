"""Darknet's .weights, written here from its configuration files' lists and read back."""

import functools

import numpy as np
import pytest

from ssd.errors import ModelError
from ssd.models.formats import darknet
from ssd.models.formats.recognise import recognise

# (filters, kernel size), as in darknet19.cfg and darknet53.cfg
DARKNET19 = [(32, 3), (64, 3), (128, 3), (64, 1), (128, 3), (256, 3), (128, 1), (256, 3), (512, 3), (256, 1), (512, 3)]
DARKNET19 += [(256, 1), (512, 3), (1024, 3), (512, 1), (1024, 3), (512, 1), (1024, 3)]
DARKNET53 = [(32, 3)]
for width, units in ((64, 1), (128, 2), (256, 8), (512, 8), (1024, 4)):
    DARKNET53 += [(width, 3)] + [(width // 2, 1), (width, 3)] * units
LAYERS = {19: DARKNET19, 53: DARKNET53}


@functools.cache
def weights(depth, dead=True):
    """Layer by layer what a file holds: beta, gamma, mean, variance, kernel OIHW; and all of it as bytes."""
    rng = np.random.default_rng(depth)
    layers, inputs = [], 3
    for filters, size in LAYERS[depth]:
        variance = rng.uniform(0.1, 2, filters)
        if dead:  # a channel without variance, as real files have
            variance[0] = 0
        norm = [rng.normal(0, 1, filters), rng.normal(1, 0.2, filters), rng.normal(0, 1, filters), variance]
        kernel = rng.standard_normal((filters, inputs, size, size), dtype="float32") * 0.05
        layers.append([array.astype("<f4") for array in norm] + [kernel])
        inputs = filters
    return layers, b"".join(array.tobytes() for arrays in layers for array in arrays)


def write(path, depth, version=(0, 2, 0), tail=0, dead=True, values=()):
    """`tail` values more at the end; `values`: (index, value) to exchange."""
    layers, data = weights(depth, dead)
    seen = "<i8" if 10 * version[0] + version[1] >= 2 else "<i4"
    header = np.array(version, "<i4").tobytes() + np.array(32013312, seen).tobytes()
    with open(path, "wb") as file:
        file.write(header + data)
        file.write(bytes(4 * tail))
        for index, value in values:
            file.seek(len(header) + 4 * index)
            file.write(np.array(value, "<f4").tobytes())
    return layers


@pytest.fixture
def read(network):
    return lambda path, nlayers, arch="darknet": darknet.read(path, network(arch=arch, nlayers=nlayers))


@pytest.mark.parametrize("depth, version", [(19, (0, 1, 0)), (53, (0, 2, 5))])
def test_every_tensor_comes_back(depth, version, tmp_path, read, backbone_model):
    written = write(tmp_path / "net.weights", depth, version)
    file = read(tmp_path / "net.weights", depth)
    model = backbone_model("darknet", depth, 32)
    convolutions = [layer for layer in model.layers if hasattr(layer, "kernel")]
    assert set(file.layers) == {layer.name for layer in model.layers if layer.weights}
    assert not file.unused and not file.reasons
    assert file.assumed == "as Darknet's are"
    # A unit's convolutions follow each other in our model as they do in Darknet's.
    assert len(convolutions) == len(written)
    x = np.linspace(-3, 3, 5)[:, None]
    for layer, (beta, gamma, mean, variance, kernel) in zip(convolutions, written, strict=True):
        (ours,) = file.layers[layer.name]
        assert np.array_equal(ours, np.moveaxis(kernel, (0, 1), (3, 2)))
        g, b, m, v = (array.astype("float64") for array in file.layers[f"{layer.name}_bn"])
        theirs = gamma.astype("float64") * (x - mean) / (np.sqrt(variance.astype("float64")) + 1e-6) + beta
        assert np.allclose(g * (x - m) / np.sqrt(v + 1e-3) + b, theirs, rtol=1e-5, atol=1e-5)


def test_the_weights_reach_the_network(tmp_path, features, picture):
    write(tmp_path / "net.weights", 19, dead=False)
    maps = features(tmp_path / "net.weights", "darknet", 19, picture(32), (0, 0, 0))
    assert all(np.isfinite(tensor).all() and tensor.std() > 0 for tensor in maps)


def test_a_classifier_is_left_over(tmp_path, read):
    write(tmp_path / "net.weights", 19, tail=1000 * 1025)
    assert read(tmp_path / "net.weights", 19).unused == ("1025000 values behind the backbone (the classifier)",)


def test_a_detector_lends_its_backbone(tmp_path, read):
    write(tmp_path / "net.weights", 19, tail=12345)
    assert read(tmp_path / "net.weights", 19).unused == ("12345 values behind the backbone (a head or further layers)",)


@pytest.mark.parametrize(
    "options, depth, told",
    [
        ({"depth": 19}, 53, "a darknet19 by its size, the spec says darknet53"),
        ({"depth": 19, "tail": 1000 * 1025}, 53, "a darknet19 by its size, the spec says darknet53"),
        ({"depth": 19, "tail": 77}, 53, "truncated, or of another network"),
        ({"depth": 19, "values": [(19_000_000, np.nan)]}, 19, "b5_conv5 would have values that are no weights"),
        ({"depth": 19, "values": [(3 * 32, -1.0)]}, 19, "conv1 would have values that are no weights"),
    ],
)
def test_what_does_not_fit_is_told(options, depth, told, tmp_path, read):
    write(tmp_path / "net.weights", **options)
    with pytest.raises(ModelError, match=told):
        read(tmp_path / "net.weights", depth)


@pytest.mark.parametrize(
    "version", [(0, 1, 0), (0, 2, 0), (0, 2, 5), (0, 2, 10), (1, 0, 0), (2, 0, 0), (0, 10, 0), (0, 2, -1)]
)
def test_what_is_recognised_is_read(version, tmp_path, network):
    """Whether a file starts as Darknet's do is one question with one answer."""
    known = version[0] < 2 and version[1] < 10 and version[2] >= 0
    path = tmp_path / "net.weights"
    write(path, 19, version)
    if known:
        assert recognise(path) == "darknet"
        assert darknet.read(path, network(arch="darknet", nlayers=19)).layers
        return
    with pytest.raises(ModelError, match="no known kind"):
        recognise(path)
    with pytest.raises(ModelError, match="does not start as"):
        darknet.read(path, network(arch="darknet", nlayers=19))


def test_a_file_without_content_is_refused(tmp_path, read):
    path = tmp_path / "net.weights"
    path.write_bytes(bytes(20 + 4 * darknet.SIZES[19]))
    with pytest.raises(ModelError, match="first convolution are all zero"):
        read(path, 19)


def test_damaged_files_and_other_architectures(tmp_path, read):
    path = tmp_path / "net.weights"
    write(path, 19)
    with pytest.raises(ModelError, match="Darknet's format, the spec says resnet18"):
        read(path, 18, "resnet")
    data = path.read_bytes()
    path.write_bytes(data[:-400])
    with pytest.raises(ModelError, match="truncated"):
        read(path, 19)
    path.write_bytes(data[:-3])
    with pytest.raises(ModelError, match="not a whole number of values"):
        read(path, 19)
    path.write_bytes(data[:10])
    with pytest.raises(ModelError, match="does not start as"):
        read(path, 19)

"""Every network as it is used: it learns a step, a file gives it back to the bit.

All of them take minutes: `pytest -m networks tests/models/test_networks.py`; the small ones run always.
"""

import keras
import numpy as np
import pytest
from every_network import NETWORKS, forget

from ssd.boxes.anchors import make_anchors
from ssd.models.backbones import backbone
from ssd.models.checkpoint import load_model, save_model
from ssd.models.detector import build_detector, feature_map_sizes
from ssd.spec.config import Regularizer
from ssd.training.shapes import keyed
from ssd.training.step import TrainingModel

SIZE = 128


def training_of(network, channels: int) -> TrainingModel:
    keras.utils.set_random_seed(0)
    detector = build_detector(network, (SIZE, SIZE, channels), 3, Regularizer("l2", 1e-4))
    anchors = make_anchors(
        image_size=(SIZE, SIZE),
        feature_maps=feature_map_sizes(detector),
        scales=network.scales,
        aspect_ratios=network.aspect_ratios,
        two_boxes_for_ar1=network.two_boxes_for_ar1,
        steps=None,
        offsets=None,
        clip=False,
    )
    training = TrainingModel(detector, anchors, network)
    jit = keras.backend.backend() != "tensorflow"
    training.compile(optimizer=keras.optimizers.SGD(1e-3, momentum=0.9), jit_compile=jit)
    return training


def batch(channels: int):
    rng = np.random.default_rng(0)
    boxes, classes = np.zeros((2, 16, 4), "float32"), np.zeros((2, 16), "int32")
    boxes[0, :2], classes[0, :2] = [(0.1, 0.1, 0.2, 0.2), (0.2, 0.1, 0.9, 0.9)], (1, 2)
    boxes[1, 0], classes[1, 0] = (0.3, 0.4, 0.7, 0.8), 3
    return rng.normal(0, 40, (2, SIZE, SIZE, channels)).astype("float32"), keyed({"boxes": boxes, "classes": classes})


def outputs_of(model: keras.Model, images) -> dict:
    # JAX compiles single operations one by one, TensorFlow does not.
    return model(images) if keras.backend.backend() == "tensorflow" else model.predict_on_batch(images)


def learns_and_comes_back(network, channels: int, path) -> None:
    training = training_of(network, channels)
    detector = training.detector
    before = [weight.copy() for weight in detector.get_weights()]
    images, truth = batch(channels)
    training.train_on_batch(images, truth)
    totals = training.totals()
    assert totals["images"] == 2
    assert np.isfinite(totals["loss"])
    # The loss reaches the whole backbone; behind it, what no ground truth matches may stay as it was.
    inside = backbone(network.arch, network.nlayers).block_of
    for weight, old, new in zip(detector.weights, before, detector.get_weights(), strict=True):
        assert inside(weight.path.split("/")[0]) is None or not np.array_equal(old, new), weight.path
    assert all(np.isfinite(weight).all() for weight in detector.get_weights())
    outputs = outputs_of(detector, images)
    anchors = sum(h * w * n for (h, w), n in zip(feature_map_sizes(detector), network.boxes_per_cell, strict=True))
    assert outputs["class_logits"].shape == (2, anchors, 4)
    assert outputs["offsets"].shape == (2, anchors, 4)
    save_model(path, detector, "spec")
    loaded = load_model(path, verb=None).model
    assert loaded.name == f"{'dssd' if network.dssd else 'ssd'}_{network.arch}"
    for one, other in zip(loaded.get_weights(), detector.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    again = outputs_of(loaded, images)
    for name, value in outputs.items():
        np.testing.assert_array_equal(np.asarray(again[name]), np.asarray(value))


@pytest.mark.parametrize(("arch", "dssd", "channels"), [("mobilenet_v2", True, 1), ("squeezenet", False, 3)])
def test_a_small_network_learns_a_step_and_comes_back_from_a_file(network, arch, dssd, channels, tmp_path):
    learns_and_comes_back(network(arch=arch, nlayers=None, dssd=dssd), channels, tmp_path / "model.keras")


@pytest.mark.networks
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dssd", [False, True])
@pytest.mark.parametrize(("arch", "nlayers"), NETWORKS)
def test_every_network_learns_a_step_and_comes_back_from_a_file(network, arch, nlayers, dssd, channels, tmp_path):
    # DSSD with the prediction module too: every part on every network.
    spec = network(arch=arch, nlayers=nlayers, dssd=dssd, pred_num_channels=256 if dssd else 0)
    learns_and_comes_back(spec, channels, tmp_path / "model.keras")
    forget()

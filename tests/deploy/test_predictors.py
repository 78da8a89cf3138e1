"""Prediction from a model file: against a plain numpy decoder, with small last batches, with a spec that differs."""

import dataclasses
import logging
from pathlib import Path

import keras
import numpy as np
import pytest

from ssd.deploy import predictors
from ssd.deploy.predictors import KerasPredictor, load_predictor
from ssd.errors import ModelError, SsdError
from ssd.models import checkpoint
from ssd.models.checkpoint import save_model
from ssd.models.detector import anchors_for, build_detector
from ssd.spec.config import Augmentation, Dataset, Evaluation, Experiment, Network, Nms

NETWORK = Network(
    dssd=False,
    arch="resnet",
    nlayers=10,
    aspect_ratios=((1.0, 2.0, 0.5),) * 6,
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
AUGMENTATION = Augmentation(
    width=160,
    height=128,
    channels=3,
    mean=(103.9, 116.8, 123.7),
    crop_scale=(1.0, 1.0),
    crop_aspect_ratio=(1.0, 1.0),
    zoom_out=(1.0, 1.0),
    brightness=0.0,
    contrast=0.0,
    saturation=0.0,
    hue=0.0,
    flip=0.0,
)
EXPERIMENT = Experiment(
    random_seed=0,
    network=NETWORK,
    augmentation=AUGMENTATION,
    nms=Nms(confidence_threshold=0.3, iou_threshold=0.5, top_k=20, score_bits=0),
    evaluation=Evaluation(10, "SAMPLE", 4, 0.5, False),
    dataset=Dataset((), (), ("car", "person"), (("car", "car"), ("person", "person")), False),
    training=None,
    text="",
)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(3)
    return build_detector(NETWORK, (128, 160, 3), 2)


@pytest.fixture(scope="module")
def predictor(model):
    return KerasPredictor(model, EXPERIMENT)


@pytest.fixture(scope="module")
def images():
    # Weak enough for the scores of a fresh network not to saturate and tie.
    return np.random.default_rng(0).normal(0, 5, (4, 128, 160, 3)).astype("float32")


@pytest.fixture
def stored(monkeypatch):
    """Makes `experiment_from_text` answer with a given spec, whatever text a model file holds."""

    def store(experiment):
        real = checkpoint.load_model

        def load(path, *, precision="float32", verb="evaluate", spec=None):
            artifact = real(path, precision=precision, verb=None)
            return dataclasses.replace(artifact, spec=experiment)

        monkeypatch.setattr(predictors, "load_model", load)

    return store


def overlap(one, other):
    size = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    shared = np.prod(np.maximum(size, 0))
    union = np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2]) - shared
    return shared / union if union > 0 else 0.0


def plain_detections(logits, offsets, anchors, nms):
    """Softmax, decoding and greedy NMS of one image in float64 loops."""
    logits, offsets, anchors = (np.asarray(value, "float64") for value in (logits, offsets, anchors))
    scores = np.exp(logits - logits.max(-1, keepdims=True))
    scores /= scores.sum(-1, keepdims=True)
    center, size = (anchors[:, :2] + anchors[:, 2:]) / 2, anchors[:, 2:] - anchors[:, :2]
    center = offsets[:, :2] * 0.1 * size + center
    size = np.exp(offsets[:, 2:] * 0.2) * size
    boxes = np.concatenate([center - size / 2, center + size / 2], axis=-1).clip(0, 1)
    kept = []
    order = [(score, i, c) for c in (1, 2) for i, score in enumerate(scores[:, c]) if score > nms.confidence_threshold]
    for score, i, c in sorted(order, key=lambda item: -item[0]):
        if len(kept) < nms.top_k and all(
            k[2] != c or overlap(boxes[i], boxes[k[1]]) <= nms.iou_threshold for k in kept
        ):
            kept.append((score, i, c))
    return boxes[[i for _, i, _ in kept]], [s for s, _, _ in kept], [c for _, _, c in kept]


def test_detections_are_those_of_plain_loops(predictor, model, images):
    found = predictor.predict(images)
    assert all(isinstance(value, np.ndarray) for value in found)
    assert found.boxes.shape == (4, 20, 4)
    outputs = {name: np.asarray(value) for name, value in model.predict_on_batch(images).items()}
    anchors = anchors_for(model, EXPERIMENT)
    assert found.valid.min() > 0
    for b in range(len(images)):
        boxes, scores, classes = plain_detections(
            outputs["class_logits"][b], outputs["offsets"][b], anchors, EXPERIMENT.nms
        )
        n = found.valid[b]
        assert n == len(boxes)
        np.testing.assert_allclose(found.scores[b, :n], scores, atol=1e-4)
        np.testing.assert_array_equal(found.classes[b, :n], classes)
        np.testing.assert_allclose(found.boxes[b, :n], boxes, atol=1e-4)
        assert not found.classes[b, n:].any()


def test_a_smaller_batch_is_the_same_without_compiling_anew(predictor, images, monkeypatch):
    whole = predictor.predict(images)
    seen = []
    run = predictor._run.predict_on_batch
    monkeypatch.setattr(predictor._run, "predict_on_batch", lambda batch: seen.append(len(batch)) or run(batch))
    for count in (1, 3, 4):
        part = predictor.predict(images[:count])
        for one, other in zip(part, whole, strict=True):
            np.testing.assert_array_equal(one, other[:count])
    assert seen == [4, 4, 4]


def test_a_larger_batch_may_follow(model, predictor, images):
    late = KerasPredictor(model, EXPERIMENT)
    late.predict(images[:1])
    for one, other in zip(late.predict(images), predictor.predict(images), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_images_of_another_size_are_refused(predictor):
    for shape in ((1, 160, 128, 3), (1, 128, 160, 1), (128, 160, 3)):
        with pytest.raises(ModelError, match="do not fit the network input"):
            predictor.predict(np.zeros(shape, "float32"))


@pytest.fixture(scope="module")
def path(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "model.keras"
    save_model(path, model, "")
    return path


def test_the_stored_spec_serves_where_none_is_given(stored, path, predictor, images):
    stored(EXPERIMENT)
    loaded = load_predictor(path)
    assert loaded.spec is EXPERIMENT
    assert loaded.classes == ("car", "person")
    assert loaded.input_shape == (128, 160, 3)
    for one, other in zip(loaded.predict(images), predictor.predict(images), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_resolved_spec_travels_inside_the_model(tmp_path):
    from ssd.spec import experiment_from_text

    demo = Path(__file__).parents[2] / "specs" / "demo_train.txt"
    experiment = experiment_from_text(demo.read_text(), "demo", "inference")
    size = experiment.augmentation
    model = build_detector(experiment.network, (size.height, size.width, size.channels), len(experiment.classes))
    save_model(tmp_path / "model.keras", model, experiment.text)
    assert load_predictor(tmp_path / "model.keras").spec == experiment
    save_model(tmp_path / "model.keras", model, experiment.text.replace('"resnet"', '"resnext"'))
    with pytest.raises(SsdError, match="resnext"):
        load_predictor(tmp_path / "model.keras")


def test_a_given_spec_decides_on_nms_and_the_model_on_its_network(stored, path, caplog):
    stored(EXPERIMENT)
    nms = Nms(confidence_threshold=0.9, iou_threshold=0.2, top_k=7, score_bits=0)
    given = dataclasses.replace(
        EXPERIMENT,
        nms=nms,
        network=dataclasses.replace(NETWORK, scales=(0.1,) * 7, alpha=3.0),
        augmentation=dataclasses.replace(AUGMENTATION, mean=(1.0, 2.0, 3.0), flip=0.5),
    )
    logger = logging.getLogger("ssd")
    logger.propagate = True
    with caplog.at_level(logging.WARNING, "ssd"):
        loaded = load_predictor(path, given)
    assert loaded.spec.nms == nms
    assert loaded.spec.network == NETWORK
    assert loaded.spec.augmentation == AUGMENTATION
    assert "network.scales, augmentation_config.mean" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"augmentation": {"width": 128}}, "takes images of 160x128 with 3 channels, the spec makes 128x128"),
        ({"augmentation": {"channels": 1}}, "the spec makes 160x128 with 1 channel"),
        ({"dataset": {"classes": ("auto", "person")}}, r"classes \(car, person\), the spec 2 \(auto, person\)"),
        ({"dataset": {"classes": ("car",)}}, r"knows 2 classes \(car, person\), the spec 1 \(car\)"),
    ],
)
def test_a_spec_for_another_model_is_refused(stored, path, changes, message):
    stored(EXPERIMENT)
    given = dataclasses.replace(
        EXPERIMENT,
        **{name: dataclasses.replace(getattr(EXPERIMENT, name), **fields) for name, fields in changes.items()},
    )
    with pytest.raises(ModelError, match=message) as caught:
        load_predictor(path, given)
    assert caught.value.where == str(path)
    assert "leave the spec away" in caught.value.hint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": {"classes": ("car", "dog", "person")}}, "tells 2 classes apart, its spec names 3"),
        ({"augmentation": {"height": 160}}, "its spec says 160x160"),
        ({"network": {"aspect_ratios": ((1.0,),) * 6}}, "anchors, its spec makes"),
    ],
)
def test_a_file_at_odds_with_itself_is_refused(stored, path, changes, message):
    stored(
        dataclasses.replace(
            EXPERIMENT,
            **{name: dataclasses.replace(getattr(EXPERIMENT, name), **fields) for name, fields in changes.items()},
        )
    )
    with pytest.raises(ModelError, match=message):
        load_predictor(path)

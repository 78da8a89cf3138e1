"""Non-maximum suppression against the plain greedy loop over every class, and from logits to detections."""

import keras
import numpy as np
import pytest
from keras import ops

from ssd.boxes.coder import decode, to_centers
from ssd.boxes.nms import TILE, Detections, detect, suppress

VARIANCES = (0.1, 0.1, 0.2, 0.2)


def compiled(function):
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    import tensorflow as tf

    return tf.function(function)


def plain_iou(box, others):
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    intersection = sides.clip(0).prod(-1)
    union = (box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(-1) - intersection
    return np.where(union > 0, intersection / np.where(union > 0, union, 1), 0)


def plain_suppress(boxes, scores, confidence_threshold, iou_threshold, top_k):
    """One image: rows (class, anchor) in order. Per class, then all together."""
    boxes, survivors = boxes.astype(np.float64), []
    for number in range(scores.shape[1]):
        order = [a for a in np.argsort(-scores[:, number], kind="stable") if scores[a, number] > confidence_threshold]
        kept = []
        for anchor in order:
            if len(kept) == top_k:
                break
            if not kept or plain_iou(boxes[anchor], boxes[kept]).max() <= iou_threshold:
                kept.append(anchor)
        survivors += [(-scores[a, number], a, number) for a in kept]
    return [(number + 1, anchor) for _, anchor, number in sorted(survivors)[:top_k]]


def run_suppress(boxes, scores, **settings):
    return compiled(lambda b, s: suppress(b, s, **settings))(boxes, scores)


def assert_equal(result: Detections, boxes, scores, **settings):
    result = Detections(*(ops.convert_to_numpy(part) for part in result))
    assert [part.dtype for part in result] == [np.float32, np.float32, np.int32, np.int32]
    batch, top_k = len(boxes), settings["top_k"]
    assert [part.shape for part in result] == [(batch, top_k, 4), (batch, top_k), (batch, top_k), (batch,)]
    most = 0
    for image in range(batch):
        expected = plain_suppress(boxes[image], scores[image], **settings)
        valid = len(expected)
        most = max(most, valid)
        assert result.valid[image] == valid
        np.testing.assert_array_equal(result.classes[image, :valid], [c for c, _ in expected])
        np.testing.assert_array_equal(result.scores[image, :valid], [scores[image, a, c - 1] for c, a in expected])
        rows = boxes[image, [a for _, a in expected]].reshape(-1, 4)
        np.testing.assert_array_equal(result.boxes[image, :valid], rows.clip(0, 1))
        for part in (result.boxes, result.scores, result.classes):
            assert not part[image, valid:].any()
    return most


def random_case(rng, anchors, classes, kind):
    """One image. Coordinates are multiples of 1/256, so that float32 and float64 agree on every IoU."""
    spread = 64 if kind == "crowd" else 320
    low = rng.integers(-32, spread - 32, (anchors, 2))
    size = rng.integers(1, 100, (anchors, 2)) if kind != "crowd" else rng.integers(60, 100, (anchors, 2))
    boxes = np.concatenate([low, low + size], -1) / 256
    if kind == "copies":
        boxes = boxes[rng.integers(0, max(1, anchors // 8), anchors)]
    scores = rng.random((anchors, classes))
    if kind == "ties":
        scores = rng.integers(0, 6, (anchors, classes)) / 5
    elif kind == "sparse":
        scores *= rng.random((anchors, classes)) < 0.05
    elif kind == "nothing":
        scores *= 0.3
    return boxes.astype(np.float32), scores.astype(np.float32)


KINDS = ["plain", "crowd", "copies", "ties", "sparse", "nothing"]

# anchors, classes, threshold, IoU, top_k, images of each kind: 1,008 cases in all
SIZES = [
    (40, 1, 0.3, 0.5, 40, 60),
    (60, 3, 0.4, 0.45, 5, 60),  # top_k binds
    (30, 4, 0.3, 0.1, 200, 32),  # more room than candidates
    (2 * TILE, 2, 0.3, 0.6, 200, 8),  # several tiles
    (5 * TILE, 1, 0.3, 0.2, 100, 4),  # and few survivors: every tile is walked through
    (TILE, 1, 0.3, 0.5, 50, 4),  # exactly one tile
]


@pytest.mark.parametrize("size", SIZES)
def test_equals_the_plain_greedy_loop(size):
    anchors, classes, confidence_threshold, iou_threshold, top_k, images = size
    settings = dict(confidence_threshold=confidence_threshold, iou_threshold=iou_threshold, top_k=top_k)
    rng = np.random.default_rng(anchors)
    run = compiled(lambda b, s: suppress(b, s, **settings))
    found = {}
    for kind in KINDS:
        cases = [random_case(rng, anchors, classes, kind) for _ in range(images)]
        boxes, scores = (np.stack(part) for part in zip(*cases, strict=True))
        found[kind] = assert_equal(run(boxes, scores), boxes, scores, **settings)
    assert found["nothing"] == 0 and found["plain"] > 0


def test_a_thousand_cases():
    assert len(KINDS) * sum(size[-1] for size in SIZES) >= 1000


def test_thresholds_are_strict():
    boxes = np.array([[[0, 0, 0.5, 0.5], [0.25, 0, 0.75, 0.5], [0, 0.5, 0.5, 1]]], np.float32)
    scores = np.array([[[0.75], [0.625], [0.5]]], np.float32)
    kept = run_suppress(boxes, scores, confidence_threshold=0.5, iou_threshold=1 / 3, top_k=5)
    assert ops.convert_to_numpy(kept.valid) == [2]  # IoU 1/3 stays, score 0.5 goes
    kept = run_suppress(boxes, scores, confidence_threshold=0.5, iou_threshold=0.33, top_k=5)
    assert ops.convert_to_numpy(kept.valid) == [1]


def test_a_suppressed_box_suppresses_nothing():
    boxes = np.array([[[0, 0, 0.5, 1], [0.2, 0, 0.7, 1], [0.4, 0, 0.9, 1]]], np.float32)
    scores = np.array([[[0.9], [0.8], [0.7]]], np.float32)
    kept = run_suppress(boxes, scores, confidence_threshold=0.1, iou_threshold=0.4, top_k=3)
    np.testing.assert_allclose(ops.convert_to_numpy(kept.scores), [[0.9, 0.7, 0]], rtol=1e-6)


def test_clipping_comes_after_suppression():
    # Outside the image the two differ; clipped first they would be one box.
    boxes = np.array([[[-1.5, 0, 0.5, 1], [0, 0, 0.5, 1]]], np.float32)
    scores = np.array([[[0.9], [0.8]]], np.float32)
    kept = run_suppress(boxes, scores, confidence_threshold=0.1, iou_threshold=0.5, top_k=2)
    np.testing.assert_array_equal(ops.convert_to_numpy(kept.boxes), [[[0, 0, 0.5, 1]] * 2])


def test_detect_is_softmax_decode_and_suppress():
    rng = np.random.default_rng(7)
    low = rng.random((50, 2)) * 0.8
    anchors = np.concatenate([low, low + rng.uniform(0.05, 0.2, (50, 2))], -1).astype(np.float32)
    logits = rng.normal(0, 2, (2, 50, 4)).astype(np.float32)
    offsets = rng.normal(size=(2, 50, 4)).astype(np.float32)
    settings = dict(confidence_threshold=0.2, iou_threshold=0.5, top_k=20)
    result = compiled(lambda c, o: detect(c, o, anchors, VARIANCES, **settings))(logits, offsets)
    boxes = ops.convert_to_numpy(decode(ops.convert_to_tensor(offsets), to_centers(anchors), VARIANCES))
    weights = np.exp(logits.astype(np.float64))
    scores = (weights / weights.sum(-1, keepdims=True))[..., 1:]
    for image in range(2):
        expected = plain_suppress(boxes[image], scores[image], **settings)
        valid = len(expected)
        assert 0 < valid == ops.convert_to_numpy(result.valid)[image]
        np.testing.assert_array_equal(ops.convert_to_numpy(result.classes)[image, :valid], [c for c, _ in expected])
        rows = boxes[image, [a for _, a in expected]].clip(0, 1)
        np.testing.assert_allclose(ops.convert_to_numpy(result.boxes)[image, :valid], rows, atol=1e-6)
        np.testing.assert_allclose(
            ops.convert_to_numpy(result.scores)[image, :valid],
            [scores[image, a, c - 1] for c, a in expected],
            rtol=1e-5,
        )


def test_detect_takes_half_precision_and_wild_outputs():
    anchors = np.array([[0.1, 0.1, 0.3, 0.3], [0.5, 0.5, 0.9, 0.9]], np.float32)
    logits = ops.cast(np.array([[[0, 60000.0], [0, 60000.0]]], np.float32), "float16")
    offsets = ops.cast(np.full((1, 2, 4), 60000.0, np.float32), "float16")
    settings = dict(confidence_threshold=0.01, iou_threshold=0.5, top_k=4)
    result = compiled(lambda c, o: detect(c, o, anchors, VARIANCES, **settings))(logits, offsets)
    boxes = ops.convert_to_numpy(result.boxes)
    assert boxes.dtype == np.float32 and np.isfinite(boxes).all()
    assert ops.convert_to_numpy(result.valid)[0] == 2


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow's own compilers")
@pytest.mark.parametrize("xla", [False, True])
def test_tensorflow_compiles_it_with_any_batch_size(xla):
    import tensorflow as tf

    settings = dict(confidence_threshold=0.3, iou_threshold=0.5, top_k=10)
    specs = [tf.TensorSpec((None, 60, 4)), tf.TensorSpec((None, 60, 3))]
    run = tf.function(lambda b, s: suppress(b, s, **settings), input_signature=specs, jit_compile=xla)
    rng = np.random.default_rng(2)
    for images in (1, 3):
        cases = [random_case(rng, 60, 3, "plain") for _ in range(images)]
        boxes, scores = (np.stack(part) for part in zip(*cases, strict=True))
        assert_equal(run(boxes, scores), boxes, scores, **settings)

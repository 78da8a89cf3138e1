"""Matching against the definition, written as plain loops over a float64 IoU table."""

import keras
import numpy as np
import pytest
from keras import ops

from ssd.boxes.matcher import FEW, match

THRESHOLDS = [(0.5, 0.5), (0.6, 0.3), (0.35, 0.1)]


def compiled(function):
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    import tensorflow as tf

    return tf.function(function, reduce_retracing=True)


def run_match(boxes, classes, anchors, *thresholds):
    return compiled(lambda b, c, a: match(b, c, a, *thresholds))(boxes, classes, anchors)


def iou_table(first, second):
    a, b = first[:, None].astype(np.float64), second[None].astype(np.float64)
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    intersection = sides.clip(0).prod(-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - intersection
    return np.where(union > 1e-12, intersection / np.maximum(union, 1e-12), 0.0)


def plain_match(boxes, classes, anchors, pos_iou, neg_iou):
    """One image: labels and ground-truth indices."""
    real = [g for g in range(len(classes)) if classes[g] > 0]
    labels, matched = np.zeros(len(anchors), int), np.zeros(len(anchors), int)
    if not real:
        return labels, matched
    table = iou_table(boxes, anchors)
    left = table.copy()
    left[[g for g in range(len(classes)) if g not in real]] = -1
    taken = np.zeros(len(anchors), bool)
    while left.max() > 0:
        g, a = np.unravel_index(left.argmax(), left.shape)
        labels[a], matched[a], taken[a] = classes[g], g, True
        left[g], left[:, a] = -1, -1
    for a in range(len(anchors)):
        if taken[a]:
            continue
        g = max(real, key=lambda g: (table[g, a], -g))
        if table[g, a] >= pos_iou:
            labels[a], matched[a] = classes[g], g
        elif table[g, a] >= neg_iou:
            labels[a] = -1
    return labels, matched


def random_batch(rng, batch, rows, number, kind):
    """Ground truth and anchors. "grid": few distinct coordinates, so many exact ties. "crowd": all in one corner."""
    if kind == "grid":
        # IoUs of boxes on a 1/16 grid that are equal in float64 are equal in float32, and the other way round.
        def draw(*shape):
            low = rng.integers(0, 13, (*shape, 2))
            return np.concatenate([low, low + rng.integers(1, 5, (*shape, 2))], -1) / 16
    else:
        spread = 0.1 if kind == "crowd" else 1.0

        def draw(*shape):
            low = rng.random((*shape, 2)) * spread
            return np.concatenate([low, low + rng.uniform(0.01, 0.4, (*shape, 2))], -1)

    classes = rng.integers(1, 5, (batch, rows))
    classes[rng.random((batch, rows)) < rng.choice([0.0, 0.4, 0.9])] = 0  # padding need not come last
    boxes = draw(batch, rows).astype(np.float32)
    boxes[classes == 0] *= rng.integers(0, 2)
    return boxes, classes.astype(np.int32), draw(number).astype(np.float32)


def assert_matches(result, boxes, classes, anchors, thresholds):
    labels, matched = (ops.convert_to_numpy(part) for part in result)
    assert labels.dtype == np.int32 and matched.dtype == np.int32
    assert matched.min() >= 0 and matched.max() < boxes.shape[1]
    for image in range(len(boxes)):
        expected_labels, expected = plain_match(boxes[image], classes[image], anchors, *thresholds)
        np.testing.assert_array_equal(labels[image], expected_labels)
        positive = expected_labels > 0
        np.testing.assert_array_equal(matched[image][positive], expected[positive])


@pytest.mark.parametrize("kind", ["spread", "grid", "crowd"])
@pytest.mark.parametrize("thresholds", THRESHOLDS)
def test_equals_the_plain_loops(kind, thresholds):
    rng = np.random.default_rng([len(kind), int(thresholds[0] * 100)])
    run = compiled(lambda boxes, classes, anchors: match(boxes, classes, anchors, *thresholds))
    for _ in range(12):
        boxes, classes, anchors = random_batch(rng, 4, 16, 90, kind)
        assert_matches(run(boxes, classes, anchors), boxes, classes, anchors, thresholds)


def test_more_ground_truth_than_anchors():
    rng = np.random.default_rng(3)
    run = compiled(lambda boxes, classes, anchors: match(boxes, classes, anchors, 0.5, 0.4))
    for kind in ("grid", "crowd"):
        boxes, classes, anchors = random_batch(rng, 3, 40, 12, kind)
        classes[:] = 1 + np.arange(40) % 4
        assert_matches(run(boxes, classes, anchors), boxes, classes, anchors, (0.5, 0.4))


def test_identical_ground_truths_get_different_anchors():
    anchors = np.array([[0, 0, 0.5, 0.5], [0.1, 0, 0.6, 0.5], [0.2, 0, 0.7, 0.5], [0.9, 0.9, 1, 1]], np.float32)
    boxes = np.zeros((1, 16, 4), np.float32)
    boxes[0, :3] = [0, 0, 0.5, 0.5]
    classes = np.zeros((1, 16), np.int32)
    classes[0, :3] = [3, 1, 2]
    labels, matched = (ops.convert_to_numpy(part) for part in run_match(boxes, classes, anchors, 0.95, 0.95))
    np.testing.assert_array_equal(labels, [[3, 1, 2, 0]])
    np.testing.assert_array_equal(matched[0, :3], [0, 1, 2])


def test_a_chain_of_refusals_is_followed_to_its_end():
    """Nested ground truths that all like the same anchors: each new one pushes all smaller ones one further, the last
    far behind the few that are looked at first."""
    count = 40
    assert count > 2 * FEW
    side = np.linspace(0.02, 0.09, count)
    boxes = np.stack([0.5 - side / 2, 0.5 - side / 2, 0.5 + side / 2, 0.5 + side / 2], -1).astype(np.float32)[None]
    side = np.linspace(0.1, 0.6, 60)
    anchors = np.stack([0.5 - side / 2, 0.5 - side / 2, 0.5 + side / 2, 0.5 + side / 2], -1).astype(np.float32)
    classes = np.arange(1, count + 1, dtype=np.int32)[None]
    labels, _ = run_match(boxes, classes, anchors, 0.9, 0.9)
    np.testing.assert_array_equal(ops.convert_to_numpy(labels)[0, :count], np.arange(count, 0, -1))


def test_a_ground_truth_without_overlap_gets_no_anchor():
    anchors = np.array([[0, 0, 0.2, 0.2], [0.2, 0.2, 0.4, 0.4]], np.float32)
    boxes = np.zeros((1, 16, 4), np.float32)
    boxes[0, 0] = [0.4, 0.4, 0.8, 0.8]  # touches the second anchor only
    boxes[0, 1] = [0.1, 0.1, 0.1, 0.15]  # inside the first, without a width
    classes = np.array([[1, 2] + [0] * 14], np.int32)
    labels, _ = run_match(boxes, classes, anchors, 0.5, 0.5)
    np.testing.assert_array_equal(ops.convert_to_numpy(labels), [[0, 0]])


def test_the_best_anchor_learns_below_the_threshold_and_is_never_neutral():
    anchors = np.array([[0, 0, 0.5, 0.5], [0, 0, 0.4, 0.5]], np.float32)
    boxes = np.zeros((1, 16, 4), np.float32)
    boxes[0, 0] = [0, 0, 0.2, 0.4]
    classes = np.array([[2] + [0] * 15], np.int32)
    labels, _ = run_match(boxes, classes, anchors, 0.5, 0.3)
    np.testing.assert_array_equal(ops.convert_to_numpy(labels), [[-1, 2]])


def test_images_without_objects_are_background():
    boxes, classes = np.zeros((2, 16, 4), np.float32), np.zeros((2, 16), np.int32)
    anchors = np.array([[0, 0, 0.5, 0.5], [0, 0, 0, 0]], np.float32)
    labels, _ = run_match(boxes, classes, anchors, 0.5, 0.0)
    np.testing.assert_array_equal(ops.convert_to_numpy(labels), np.zeros((2, 2)))


def test_half_precision_boxes_are_matched_in_float32():
    rng = np.random.default_rng(5)
    boxes, classes, anchors = random_batch(rng, 2, 16, 50, "grid")
    half = ops.cast(ops.convert_to_tensor(boxes), "bfloat16")  # exact: sixteenths
    assert_matches(run_match(half, classes, anchors, 0.5, 0.4), boxes, classes, anchors, (0.5, 0.4))

"""The loss and its gradients against an independent reference in float64 numpy."""

import dataclasses
import functools

import keras
import numpy as np
import pytest
from keras import ops

from ssd.training.loss import hardest, ssd_loss


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the loss reads of a resolved network."""

    variances: tuple = (0.1, 0.1, 0.2, 0.2)
    alpha: float = 1.0
    neg_pos_ratio: float = 3.0
    pos_iou_thresh: float = 0.5
    neg_iou_thresh: float = 0.5


NEUTRAL_ZONE = Settings(variances=(0.1, 0.2, 0.3, 0.4), alpha=0.7, neg_pos_ratio=1.5, neg_iou_thresh=0.2)


def compiled(function):
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    import tensorflow as tf

    return tf.function(function)


def with_gradients(function):
    """`function(logits, offsets, ...) -> dict with "loss"`; gives the dict and the two gradients, compiled."""
    if keras.backend.backend() == "jax":
        import jax

        def loss(logits, offsets, *rest):
            parts = function(logits, offsets, *rest)
            return parts["loss"], parts

        def run(*arguments):
            (_, parts), gradients = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(*arguments)
            return parts, gradients
    else:
        import tensorflow as tf

        def run(logits, offsets, *rest):
            logits, offsets = tf.convert_to_tensor(logits), tf.convert_to_tensor(offsets)
            with tf.GradientTape() as tape:
                tape.watch((logits, offsets))
                parts = function(logits, offsets, *rest)
            return parts, tape.gradient(parts["loss"], (logits, offsets))

    return compiled(run)


@functools.cache  # compiled once for all tests
def loss_with_gradients(settings):
    return with_gradients(lambda *arrays: ssd_loss(*arrays, settings))


def reference_iou(first, second):
    a, b = first[:, None], second[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    intersection = sides.clip(0).prod(-1)
    return intersection / ((a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - intersection)


def reference_targets(boxes, classes, anchors, settings):
    """One image: labels (-1 neutral) and offsets `(A, 4)`."""
    boxes, classes = boxes[classes > 0], classes[classes > 0]
    labels, owner = np.zeros(len(anchors), int), np.zeros(len(anchors), int)
    if len(boxes):
        table = reference_iou(boxes, anchors)
        best = table.max(0)
        labels[best >= settings.neg_iou_thresh] = -1
        threshold = best >= settings.pos_iou_thresh
        owner = table.argmax(0)
        left = table.copy()
        while left.max() > 0:
            g, a = np.unravel_index(left.argmax(), left.shape)
            owner[a], threshold[a] = g, True
            left[g, :], left[:, a] = 0, 0
        labels[threshold] = classes[owner[threshold]]
    offsets = np.zeros((len(anchors), 4))
    for a in np.flatnonzero(labels > 0):
        x1, y1, x2, y2 = anchors[a]
        u1, v1, u2, v2 = boxes[owner[a]]
        w, h = x2 - x1, y2 - y1
        offsets[a] = [
            ((u1 + u2) - (x1 + x2)) / 2 / w / settings.variances[0],
            ((v1 + v2) - (y1 + y2)) / 2 / h / settings.variances[1],
            np.log((u2 - u1) / w) / settings.variances[2],
            np.log((v2 - v1) / h) / settings.variances[3],
        ]
    return labels, offsets


def reference_loss(logits, offsets, boxes, classes, anchors, settings):
    """The four numbers and the gradients by logits and offsets, all float64."""
    logits, offsets, boxes, anchors = (np.asarray(x, np.float64) for x in (logits, offsets, boxes, anchors))
    batch = len(logits)
    pairs = [reference_targets(b, c, anchors, settings) for b, c in zip(boxes, classes, strict=True)]
    labels, targets = np.stack([p[0] for p in pairs]), np.stack([p[1] for p in pairs])

    logs = logits - logits.max(-1, keepdims=True)
    logs = logs - np.log(np.exp(logs).sum(-1, keepdims=True))
    one_hot = np.eye(logits.shape[-1])[labels.clip(0)]
    entropy = -(logs * one_hot).sum(-1)

    positives = int((labels > 0).sum())
    share = positives or batch
    background = np.flatnonzero(labels == 0)
    worst = background[np.argsort(-entropy.ravel()[background], kind="stable")]
    counted = (labels > 0).ravel()
    counted[worst[: int(np.floor(settings.neg_pos_ratio * share))]] = True
    counted = counted.reshape(labels.shape)

    difference = np.where((labels > 0)[..., None], offsets - targets, 0)
    size = np.abs(difference)
    classification = (entropy * counted).sum() / share
    localisation = np.where(size < 1, difference**2 / 2, size - 0.5).sum() / share
    parts = {
        "loss": classification + settings.alpha * localisation,
        "classification": classification,
        "localisation": localisation,
        "positives": positives,
    }
    by_logits = (np.exp(logs) - one_hot) * counted[..., None] / share
    by_offsets = settings.alpha * difference.clip(-1, 1) / share
    return parts, (by_logits, by_offsets), labels


def random_batch(rng, batch=4, rows=16, number=80, classes=3, kind="mixed"):
    """Logits, offsets, ground truth, anchors. Half of the images of "mixed" have few objects, some none."""
    low = rng.random((number, 2)) * 0.8
    anchors = np.concatenate([low, low + rng.uniform(0.1, 0.4, (number, 2))], -1).astype(np.float32)
    low = rng.random((batch, rows, 2)) * 0.8
    boxes = np.concatenate([low, low + rng.uniform(0.05, 0.4, (batch, rows, 2))], -1).astype(np.float32)
    labels = rng.integers(1, classes + 1, (batch, rows)).astype(np.int32)
    filled = {"mixed": [rows, 3, 0, 1], "empty": [0], "full": [rows]}[kind]
    for image in range(batch):
        labels[image, filled[image % len(filled)] :] = 0
    boxes[labels == 0] = 0
    logits = rng.normal(0, 3, (batch, number, 1 + classes)).astype(np.float32)
    offsets = rng.normal(0, 2, (batch, number, 4)).astype(np.float32)
    return logits, offsets, boxes, labels, anchors


def assert_parts(parts, expected, rtol=2e-5):
    assert set(parts) == set(expected)
    for name, value in expected.items():
        value_here = ops.convert_to_numpy(parts[name])
        assert value_here.dtype == np.float32 and value_here.shape == ()
        np.testing.assert_allclose(value_here, value, rtol=rtol, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("settings", [Settings(), NEUTRAL_ZONE], ids=["equal", "neutral"])
def test_loss_and_gradients_equal_the_reference(settings):
    rng = np.random.default_rng(11)
    run = loss_with_gradients(settings)
    neutral = 0
    for kind in ["mixed"] * 12 + ["full"] * 6 + ["empty"] * 3:
        arrays = random_batch(rng, kind=kind)
        parts, gradients = run(*arrays)
        expected, expected_gradients, labels = reference_loss(*arrays, settings)
        neutral += (labels < 0).sum()
        assert_parts(parts, expected)
        for gradient, wanted in zip(gradients, expected_gradients, strict=True):
            np.testing.assert_allclose(ops.convert_to_numpy(gradient), wanted, rtol=2e-4, atol=2e-6)
    assert (neutral > 0) == (settings is NEUTRAL_ZONE)


def test_the_gradients_of_the_reference_are_its_slopes():
    rng = np.random.default_rng(4)
    arrays = [np.asarray(a, np.float64 if a.dtype == np.float32 else a.dtype) for a in random_batch(rng, number=40)]
    _, gradients, _ = reference_loss(*arrays, NEUTRAL_ZONE)
    for which, gradient in enumerate(gradients):
        for index in rng.choice(np.flatnonzero(gradient), 20):
            losses = []
            for step in (1e-6, -1e-6):
                moved = [a.copy() for a in arrays]
                moved[which].ravel()[index] += step
                losses.append(reference_loss(*moved, NEUTRAL_ZONE)[0]["loss"])
            np.testing.assert_allclose((losses[0] - losses[1]) / 2e-6, gradient.ravel()[index], rtol=1e-4, atol=1e-8)


def test_a_batch_without_objects_still_teaches_background():
    logits, offsets, boxes, classes, anchors = random_batch(np.random.default_rng(0), kind="empty")
    run = loss_with_gradients(Settings())
    parts, (by_logits, by_offsets) = run(logits, offsets, boxes, classes, anchors)
    assert ops.convert_to_numpy(parts["positives"]) == 0
    assert ops.convert_to_numpy(parts["loss"]) > 0
    by_logits = ops.convert_to_numpy(by_logits)
    assert (np.abs(by_logits).sum(-1) > 0).sum() == 3 * len(logits)  # as many as one positive per image would bring
    assert (by_logits[..., 0] <= 0).all()  # towards background
    assert not ops.convert_to_numpy(by_offsets).any()


def test_hard_negatives_are_taken_over_the_whole_batch():
    """All objects in the first image, all confusion in the second: all negatives come from there."""
    logits, offsets, boxes, classes, anchors = random_batch(np.random.default_rng(1), kind="full")
    classes[1:] = 0
    logits[:] = 0
    logits[[0, 2, 3], :, 0] = 5
    _, (by_logits, _) = loss_with_gradients(Settings())(logits, offsets, boxes, classes, anchors)
    _, _, labels = reference_loss(logits, offsets, boxes, classes, anchors, Settings())
    touched = np.abs(ops.convert_to_numpy(by_logits)).sum(-1) > 0
    np.testing.assert_array_equal(touched[0], labels[0] > 0)
    assert 0 < 3 * (labels > 0).sum() < len(anchors)
    assert touched[1].sum() == 3 * (labels > 0).sum()
    assert not touched[2:].any()


def test_half_precision_outputs_are_summed_in_float32():
    logits, offsets, boxes, classes, anchors = random_batch(np.random.default_rng(2))
    half = [ops.cast(ops.convert_to_tensor(a), "bfloat16") for a in (logits, offsets)]
    rounded = [ops.convert_to_numpy(ops.cast(a, "float32")) for a in half]
    before = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        parts = compiled(lambda *arrays: ssd_loss(*arrays, Settings()))(*half, boxes, classes, anchors)
    finally:
        keras.mixed_precision.set_global_policy(before)
    assert_parts(parts, reference_loss(*rounded, boxes, classes, anchors, Settings())[0])


def test_extreme_logits_stay_finite():
    logits, offsets, boxes, classes, anchors = random_batch(np.random.default_rng(3))
    run = loss_with_gradients(Settings())
    parts, gradients = run(logits * 1e4, offsets * 1e6, boxes, classes, anchors)
    assert np.isfinite(ops.convert_to_numpy(parts["loss"]))
    assert all(np.isfinite(ops.convert_to_numpy(gradient)).all() for gradient in gradients)


def test_a_nan_is_not_hidden():
    logits, offsets, boxes, classes, anchors = random_batch(np.random.default_rng(3))
    logits[1, 5] = np.nan
    parts, _ = loss_with_gradients(Settings())(logits, offsets, boxes, classes, anchors)
    assert np.isnan(ops.convert_to_numpy(parts["loss"]))


def test_hardest_takes_the_largest_and_the_first_among_equals():
    rng = np.random.default_rng(6)
    run = compiled(hardest)
    for case in range(40):
        losses = rng.exponential(size=(3, 50)).astype(np.float32)
        if case % 2:
            losses = np.round(losses * 2) / 2  # many equal, many zero
        losses[rng.random((3, 50)) < 0.1] = -0.0
        candidates = rng.random((3, 50)) < rng.choice([0.0, 0.3, 1.0])
        count = int(rng.choice([0, 1, 7, 60, 150, 1000]))
        order = np.argsort(np.where(candidates, -losses, np.inf).ravel(), kind="stable")
        expected = np.zeros(150, bool)
        expected[order[: min(count, candidates.sum())]] = True
        chosen = ops.convert_to_numpy(run(losses, candidates, np.int32(count)))
        np.testing.assert_array_equal(chosen, expected.reshape(3, 50))


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow's own compilers")
@pytest.mark.parametrize("xla", [False, True])
def test_tensorflow_compiles_it_with_any_batch_size(xla):
    import tensorflow as tf

    anchors = random_batch(np.random.default_rng(9))[-1]
    specs = [
        tf.TensorSpec((None, 80, 4)),
        tf.TensorSpec((None, 80, 4)),
        tf.TensorSpec((None, None, 4)),
        tf.TensorSpec((None, None), tf.int32),
    ]
    run = tf.function(lambda *a: ssd_loss(*a, anchors, Settings()), input_signature=specs, jit_compile=xla)
    for batch, rows in ((1, 16), (3, 32)):
        arrays = [*random_batch(np.random.default_rng(8), batch, rows)[:-1], anchors]
        assert_parts(run(*arrays[:-1]), reference_loss(*arrays, Settings())[0])

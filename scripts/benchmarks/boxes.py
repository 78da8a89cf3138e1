"""Times matching, loss and non-maximum suppression on this machine, compiled as in training.

    python scripts/benchmarks/boxes.py [--batch 32] [--objects 100] [--filled 1.0] [--classes 20]

KERAS_BACKEND chooses the engine. Prints medians of several runs in milliseconds: by the clock, and of
processor time, which a busy machine does not stretch.
"""

import argparse
import time
from pathlib import Path

import keras
import numpy as np
from keras import ops
from timing import machine, write_json

from ssd.boxes.anchors import make_anchors
from ssd.boxes.matcher import match
from ssd.boxes.nms import detect
from ssd.training.loss import ssd_loss

VARIANCES = (0.1, 0.1, 0.2, 0.2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--objects", type=int, default=100, help="rows of ground truth per image")
    parser.add_argument("--filled", type=float, default=1.0, help="share of those rows that are real")
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--top_k", type=int, default=200)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the medians here")
    args = parser.parse_args()

    anchors = guide_anchors()
    rng = np.random.default_rng(0)
    boxes, classes = ground_truth(rng, args.batch, args.objects, args.filled, args.classes)
    logits = rng.normal(size=(args.batch, len(anchors), 1 + args.classes)).astype("float32")
    offsets = rng.normal(size=(args.batch, len(anchors), 4)).astype("float32")
    confident = logits.copy()  # as a trained network: background nearly everywhere
    confident[..., 0] += np.where(rng.random(confident.shape[:2]) < 0.01, 0.0, 12.0)
    network = LossSettings()

    def loss(logits, offsets, boxes, classes):
        return ssd_loss(logits, offsets, boxes, classes, anchors, network)["loss"]

    def suppression(logits, offsets):
        return detect(
            logits, offsets, anchors, VARIANCES, confidence_threshold=0.01, iou_threshold=0.6, top_k=args.top_k
        )

    print(f"backend {keras.backend.backend()}: batch {args.batch}, {len(anchors)} anchors, {args.classes} classes")
    found = [
        report("matching", lambda b, c: match(b, c, anchors, 0.5, 0.5), boxes, classes),
        report("matching and loss", loss, logits, offsets, boxes, classes),
        report("matching, loss and gradient", with_gradient(loss), logits, offsets, boxes, classes),
        report("detections, trained", suppression, confident, offsets),
        report("detections, untrained", suppression, logits, offsets),
    ]
    write_json(args.json, {"machine": machine(), "batch": args.batch, "objects": args.objects, "parts": found})


class LossSettings:
    """The fields of a resolved network that the loss reads."""

    variances = VARIANCES
    alpha = 1.0
    neg_pos_ratio = 3.0
    pos_iou_thresh = 0.5
    neg_iou_thresh = 0.5


def guide_anchors() -> np.ndarray:
    """The 11,658 anchors of the guide's 300 x 300 sample."""
    return make_anchors(
        image_size=(300, 300),
        feature_maps=[(size, size) for size in (38, 19, 10, 5, 3, 2)],
        scales=[0.05, 0.1, 0.25, 0.4, 0.55, 0.7, 0.85],
        aspect_ratios=[[1.0, 2.0, 0.5, 3.0, 1.0 / 3.0]] * 6,
        two_boxes_for_ar1=True,
        steps=None,
        offsets=None,
        clip=False,
    )


def ground_truth(rng, batch: int, rows: int, filled: float, number_of_classes: int):
    """Random objects: sides of 2 to 30 % of the image."""
    centers, sizes = rng.random((batch, rows, 2)), rng.uniform(0.02, 0.3, (batch, rows, 2))
    boxes = np.clip(np.concatenate([centers - sizes / 2, centers + sizes / 2], -1), 0, 1).astype("float32")
    classes = rng.integers(1, number_of_classes + 1, (batch, rows))
    classes[:, int(rows * filled) :] = 0
    return boxes, classes.astype("int32")


def with_gradient(function):
    """The function's gradients by its first two arguments."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.grad(function, argnums=(0, 1))
    import tensorflow as tf

    def gradient(first, second, *rest):
        with tf.GradientTape() as tape:
            tape.watch((first, second))
            value = function(first, second, *rest)
        return tape.gradient(value, (first, second))

    return gradient


def report(name: str, function, *arrays, runs: int = 7) -> dict:
    """Compiles, warms up, prints and returns the median times."""
    if keras.backend.backend() == "jax":
        import jax

        compiled = jax.jit(function)
    else:
        import tensorflow as tf

        compiled = tf.function(function)
    inputs = [ops.convert_to_tensor(array) for array in arrays]
    clock, processor = [], []
    for _ in range(runs + 1):
        start, start_processor = time.perf_counter(), time.process_time()
        keras.tree.map_structure(ops.convert_to_numpy, compiled(*inputs))
        clock.append(time.perf_counter() - start)
        processor.append(time.process_time() - start_processor)
    clock, processor = (sorted(times[1:])[runs // 2] * 1e3 for times in (clock, processor))
    print(f"{name:30s} {clock:8.1f} ms {processor:8.1f} ms of processor time")
    return {"part": name, "milliseconds": clock, "processor_milliseconds": processor}


if __name__ == "__main__":
    main()

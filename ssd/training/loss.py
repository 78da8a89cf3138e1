"""The loss of SSD (Liu et al. 2016, section 2.2): cross-entropy with hard negatives, and smooth L1 on offsets."""

import numpy as np
from keras import ops

from ssd.boxes.coder import encode, to_centers
from ssd.boxes.gather import gather_rows
from ssd.boxes.matcher import match
from ssd.models.replicas import gathered, own_rows, total
from ssd.spec.config import Network


def ssd_loss(class_logits, offsets, boxes, classes, anchors, network: Network) -> dict:
    """Loss of a batch, in float32 whatever the types of the network outputs.

    Anchors that match a ground truth (positives) learn its class and offsets. Of the background anchors only the
    hardest of the whole batch count: `neg_pos_ratio` times as many as there are positives. The sum is divided by
    the number of positives. A batch without any positive still teaches background: it takes the
    `neg_pos_ratio * B` hardest and divides by B, as if every image had one positive. Neutral anchors
    count nowhere.

    Replicas of a step have a part of the batch each. What decides is the whole batch all the same: the parts of the
    loss returned are the own ones, and their sum over the replicas is the loss.

    Args:
        class_logits: `(B, A, 1 + classes)`, background first, before softmax.
        offsets: `(B, A, 4)`.
        boxes: `(B, M, 4)` ground truth, corners relative to the image.
        classes: int `(B, M)` from 1; 0 marks padding.
        anchors: `(A, 4)` corners.
        network: thresholds, variances, `neg_pos_ratio` and `alpha`.

    Returns:
        float32 scalars: `loss` = `classification` + alpha * `localisation`, both parts, and the number of `positives`
        in the whole batch.
        Regularisation is not in it: the layers of the model add their own.
    """
    class_logits = ops.cast(class_logits, "float32")
    offsets = ops.cast(offsets, "float32")
    boxes = ops.cast(boxes, "float32")
    anchors = ops.convert_to_tensor(anchors, dtype="float32")
    batch = total(ops.cast(ops.shape(class_logits)[0], "float32"))

    labels, matched = match(boxes, classes, anchors, network.pos_iou_thresh, network.neg_iou_thresh)
    positive = labels > 0
    positives = total(ops.cast(ops.sum(ops.cast(positive, "int32")), "float32"))
    share = ops.where(positives > 0, positives, batch)

    cross_entropy = ops.sparse_categorical_crossentropy(ops.maximum(labels, 0), class_logits, from_logits=True)
    wanted = ops.cast(ops.floor(network.neg_pos_ratio * share), "int32")
    hard = hardest(cross_entropy, labels == 0, wanted)
    counted = ops.logical_or(positive, hard)
    classification = ops.sum(ops.where(counted, cross_entropy, 0.0)) / share

    targets = encode(gather_rows(boxes, matched), to_centers(anchors), network.variances)
    distance = ops.sum(smooth_l1(offsets - ops.stop_gradient(targets)), axis=-1)
    localisation = ops.sum(ops.where(positive, distance, 0.0)) / share

    return {
        "loss": classification + network.alpha * localisation,
        "classification": classification,
        "localisation": localisation,
        "positives": positives,
    }


def smooth_l1(difference):
    """Quadratic up to 1, linear beyond (Girshick 2015, eq. 3), elementwise."""
    size = ops.abs(difference)
    return ops.where(size < 1.0, 0.5 * difference * difference, size - 0.5)


def hardest(losses, candidates, count):
    """The `count` candidates of the largest loss in the whole batch, the first ones among equals.

    No sort: the smallest loss that is in is found bit by bit, since non-negative floats order as their bits do.

    Args:
        losses: float32 `(B, ...)`, not negative.
        candidates: bool, the same shape.
        count: int32 scalar; all candidates are taken where there are fewer.

    Returns:
        bool, the same shape. Carries no gradient.
    """
    # Compared and counted as floats: with int32, TensorFlow would leave the GPU. Counts are exact up to 2**24, more
    # anchors than a batch has. NaN is in before all others. abs: -0.0 has the sign bit set.
    ranked = gathered(ops.where(candidates, ops.abs(ops.stop_gradient(losses)), -1.0))
    size = ops.reshape(ops.where(ops.isnan(ranked), np.float32(np.inf), ranked), (-1,))

    def number(chosen):
        return ops.sum(ops.cast(chosen, "float32"))

    count = ops.minimum(ops.cast(count, "float32"), number(size >= 0.0))

    def add_bit(step, bits):
        higher = bits + ops.left_shift(ops.ones_like(bits), 30 - step)
        return ops.where(number(size >= ops.view(higher, dtype="float32")) >= count, higher, bits)

    limit = ops.view(ops.fori_loop(0, 31, add_bit, ops.zeros((), dtype="int32")), dtype="float32")
    above = size > limit
    equal = size == limit
    first = ops.cumsum(ops.cast(equal, "float32")) <= count - number(above)
    chosen = ops.logical_or(above, ops.logical_and(equal, first))
    return own_rows(ops.reshape(chosen, ops.shape(ranked)), losses)

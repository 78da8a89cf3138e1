"""From network outputs to detections: softmax, decoding, greedy non-maximum suppression per class."""

from typing import Any, NamedTuple

from keras import ops

from ssd.boxes.coder import decode, to_centers
from ssd.boxes.gather import gather_rows
from ssd.boxes.iou import iou

# Candidates looked at together. One tile nearly always suffices; smaller tiles make crowded images slow, larger
# ones pay (tile x tile) for nothing.
TILE = 256


class Detections(NamedTuple):
    """The detections of a batch, K rows per image, best first; rows from `valid` on are zeros."""

    boxes: Any  # float32 (B, K, 4): xmin, ymin, xmax, ymax relative to the image, clipped to [0, 1]
    scores: Any  # float32 (B, K)
    classes: Any  # int32 (B, K) from 1; 0 is padding
    valid: Any  # int32 (B,)


def detect(class_logits, offsets, anchors, variances, *, confidence_threshold, iou_threshold, top_k) -> Detections:
    """Detections of a batch of network outputs, in float32 whatever their type.

    Args:
        class_logits: `(B, A, 1 + classes)`, background first.
        offsets: `(B, A, 4)`.
        anchors: `(A, 4)` corners relative to the image.
        variances: four floats.
        confidence_threshold, iou_threshold, top_k: as in `suppress`.
    """
    anchors = to_centers(ops.convert_to_tensor(anchors, dtype="float32"))
    boxes = decode(ops.cast(offsets, "float32"), anchors, variances)
    scores = ops.softmax(ops.cast(class_logits, "float32"), axis=-1)[..., 1:]
    return suppress(
        boxes,
        scores,
        confidence_threshold=confidence_threshold,
        iou_threshold=iou_threshold,
        top_k=top_k,
    )


def suppress(boxes, scores, *, confidence_threshold: float, iou_threshold: float, top_k: int) -> Detections:
    """Greedy non-maximum suppression per class: exactly what a plain loop over the sorted candidates keeps.

    Candidates of all classes are taken together in falling order of score and a box is only held against kept
    ones of its class. The first `top_k` survivors of that order are the answer of "at most `top_k` per class, then
    the best `top_k` of all", so the walk may stop there. It goes tile by tile, each of fixed size.

    Args:
        boxes: float32 `(B, A, 4)` corners, shared by the classes.
        scores: float32 `(B, A, classes)` without background.
        confidence_threshold: at least 0; candidates score more than this.
        iou_threshold: a box goes when its IoU with a kept better one of its class is more than this.
        top_k: most detections per image.

    Ties go to the first anchor, then to the first class. Boxes are clipped to the image after suppression.
    """
    batch, classes = ops.shape(scores)[0], scores.shape[2]
    total = scores.shape[1] * classes
    tile = min(TILE, total)
    position = ops.arange(total, dtype="int32")[None, :]
    pool = ops.reshape(scores, (batch, total))
    pool = ops.where(pool > confidence_threshold, pool, -1.0)
    order = ops.arange(tile, dtype="int32")
    before = order[None, :] < order[:, None]

    def unfinished(last_score, last_position, kept_boxes, kept_scores, kept_classes):
        room = kept_scores[:, -1] <= confidence_threshold
        return ops.any(ops.logical_and(room, last_score[:, 0] > confidence_threshold))

    def step(last_score, last_position, kept_boxes, kept_scores, kept_classes):
        left = ops.logical_or(pool < last_score, ops.logical_and(pool == last_score, position > last_position))
        tile_scores, index = ops.top_k(ops.where(left, pool, -1.0), tile)
        index = ops.cast(index, "int32")
        tile_boxes = gather_rows(boxes, index // classes)
        tile_classes = index % classes + 1

        clash = _clash(tile_boxes, tile_classes, kept_boxes, kept_classes, iou_threshold)
        alive = ops.logical_and(tile_scores > confidence_threshold, ops.logical_not(ops.any(clash, axis=2)))
        clash = _clash(tile_boxes, tile_classes, tile_boxes, tile_classes, iou_threshold)
        survive = _greedy(alive, ops.logical_and(clash, before))

        # Kept ones come first and score at least as much, so a stable top-k appends what fits.
        merged = ops.concatenate([kept_scores, ops.where(survive, tile_scores, -1.0)], axis=1)
        new_scores, chosen = ops.top_k(merged, top_k)
        chosen = ops.cast(chosen, "int32")
        new_boxes = gather_rows(ops.concatenate([kept_boxes, tile_boxes], axis=1), chosen)
        new_classes = gather_rows(ops.concatenate([kept_classes, tile_classes], axis=1), chosen)
        # Free rows hold whatever was suppressed: class 0 keeps them from suppressing anything.
        new_classes = ops.where(new_scores > confidence_threshold, new_classes, 0)
        # The last of the tile, by reductions: XLA turns a top-k of which a slice is taken into a full sort.
        last_score = ops.min(tile_scores, axis=1, keepdims=True)
        last_position = ops.max(ops.where(tile_scores == last_score, index, -1), axis=1, keepdims=True)
        return last_score, last_position, new_boxes, new_scores, new_classes

    start = (
        ops.full((batch, 1), float("inf"), dtype="float32"),
        ops.full((batch, 1), -1, dtype="int32"),
        ops.zeros((batch, top_k, 4), dtype="float32"),
        ops.full((batch, top_k), -1.0, dtype="float32"),
        ops.zeros((batch, top_k), dtype="int32"),
    )
    _, _, kept_boxes, kept_scores, kept_classes = ops.while_loop(unfinished, step, start)
    real = kept_classes > 0
    return Detections(
        boxes=ops.where(real[..., None], ops.clip(kept_boxes, 0.0, 1.0), 0.0),
        scores=ops.where(real, kept_scores, 0.0),
        classes=kept_classes,
        valid=ops.sum(ops.cast(real, "int32"), axis=1),
    )


def _clash(boxes, classes, others, other_classes, iou_threshold):
    """bool `(B, N, M)`: same class and too much overlap."""
    same = classes[:, :, None] == other_classes[:, None, :]
    return ops.logical_and(same, iou(boxes, others) > iou_threshold)


def _greedy(alive, clash):
    """What the greedy loop keeps of one tile, found by iteration to a fixed point.

    Whether a box stays depends on those before it only, so every round settles at least one more: the answer is
    reached after as many rounds as the longest chain of boxes that decide on each other, usually a handful.

    Args:
        alive: bool `(B, T)`: in the race.
        clash: bool `(B, T, T)`: row i cannot stay if column j, before it, stays.
    """
    clash = ops.cast(clash, "float32")

    def round_of(kept):
        hits = ops.matmul(clash, ops.cast(kept, "float32")[..., None])[..., 0]
        return ops.logical_and(alive, hits < 0.5)

    def moving(previous, kept):
        return ops.any(ops.not_equal(previous, kept))

    def step(previous, kept):
        return kept, round_of(kept)

    return ops.while_loop(moving, step, (alive, round_of(alive)))[1]

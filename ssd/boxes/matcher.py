"""Which anchor learns which ground truth (Liu et al. 2016, section 2.2, "matching strategy").

Every ground truth first gets an anchor of its own, the best pairs first; then anchors that overlap a ground truth
well enough take it too. All of it runs on the device at fixed shapes. The `(B, M, A)` array of IoUs is never
stored: it is walked through one ground truth at a time, which costs little memory and stops at the last real one.
"""

from keras import ops

from ssd.boxes.gather import gather_rows
from ssd.boxes.iou import iou

BACKGROUND = 0
NEUTRAL = -1
SMALLEST_IOU = 1e-6
# The best anchors of a ground truth that are looked at first. Hardly ever are all of them better suited to others, and
# finding many more costs as much as all the rest of matching.
FEW = 16


def match(boxes, classes, anchors, pos_iou, neg_iou):
    """The class and the ground truth of every anchor.

    Args:
        boxes: `(B, M, 4)` ground truth, corners relative to the image.
        classes: int `(B, M)` from 1; 0 marks padding.
        anchors: `(A, 4)` corners.
        pos_iou: an anchor whose best IoU is at least this learns that ground truth.
        neg_iou: an anchor whose best IoU is at least this, and not positive, is neutral.

    Returns:
        labels: int32 `(B, A)`: 0 background, -1 neutral, else the class.
        matched: int32 `(B, A)`: index of the ground truth in its image; meaningful where the label is positive.

    A ground truth that overlaps no anchor gets none. Ties go to the first ground truth, then to the first anchor.
    """
    boxes = ops.stop_gradient(ops.cast(boxes, "float32"))
    anchors = ops.convert_to_tensor(anchors, dtype="float32")
    classes = ops.cast(classes, "int32")

    real = classes > 0
    # Padding overlaps nothing.
    boxes = ops.where(real[..., None], boxes, 0.0)
    best_iou, matched, *candidates = _overlaps(boxes, real, anchors, FEW)
    own_anchor, too_few = _one_anchor_each(*candidates, anchors.shape[0])

    def with_all():
        # Others can take at most M - 1 anchors, so its M best are all that a ground truth can need.
        return _one_anchor_each(*_overlaps(boxes, real, anchors, ops.shape(boxes)[1])[2:], anchors.shape[0])[0]

    if not (isinstance(boxes.shape[1], int) and boxes.shape[1] <= FEW):  # those were all
        own_anchor = ops.cond(too_few, with_all, lambda: own_anchor)
    owner = _scatter_owners(own_anchor, anchors.shape[0])

    owned = owner >= 0
    matched = ops.where(owned, owner, matched)
    positive = ops.logical_or(owned, best_iou >= pos_iou)
    # Even at a threshold of 0 an anchor that overlaps nothing is background.
    other = ops.where(best_iou >= max(neg_iou, SMALLEST_IOU), NEUTRAL, BACKGROUND)
    return ops.where(positive, gather_rows(classes, matched), other), matched


def _overlaps(boxes, real, anchors, width):
    """One walk over the ground truth: the best of each anchor, and the best `width` anchors of each.

    Returns:
        best_iou `(B, A)` (0 without ground truth), best `(B, A)` its index, and for every ground truth its
        best anchors in falling order: ious `(B, M, k)` (0 for padding) and indices int32 `(B, M, k)`.
    """
    batch, rows, number = ops.shape(boxes)[0], ops.shape(boxes)[1], anchors.shape[0]
    # (TensorFlow may not know M before the batch is there.)
    width = min(width, number) if isinstance(width, int) else ops.minimum(width, number)
    last = ops.max(ops.where(real, ops.arange(rows, dtype="int32"), -1))

    def more(row, *_):
        return row <= last

    def step(row, best_iou, best, ious, indices):
        box = ops.slice(boxes, (0, row, 0), (batch, 1, 4))
        overlap = iou(box, anchors)[:, 0, :]
        best = ops.where(overlap > best_iou, row, best)
        best_iou = ops.maximum(overlap, best_iou)
        top, index = ops.top_k(overlap, width)
        ious = ops.slice_update(ious, (0, row, 0), top[:, None, :])
        indices = ops.slice_update(indices, (0, row, 0), ops.cast(index, "int32")[:, None, :])
        return row + 1, best_iou, best, ious, indices

    start = (
        ops.convert_to_tensor(0, dtype="int32"),
        ops.zeros((batch, number), dtype="float32"),
        ops.zeros((batch, number), dtype="int32"),
        ops.zeros((batch, rows, width), dtype="float32"),
        ops.zeros((batch, rows, width), dtype="int32"),
    )
    return ops.while_loop(more, step, start)[1:]


def _one_anchor_each(ious, candidates, number):
    """The bipartite match: repeatedly the best pair of all, both then out of the game.

    Computed for all at once: every ground truth asks for the best anchor that has not refused it, an anchor
    refuses all but the best of those that ask, and so on until nobody is refused. Since both sides rank a pair
    by the same number, this ends with the pairs that the greedy choice makes (the best pair of all is never
    refused; without it the same holds for the next).

    Args:
        ious, candidates: `(B, M, k)`, falling per ground truth.
        number: how many anchors there are.

    Returns:
        int32 `(B, M)`: the anchor of each ground truth, `number` for none; and whether some ground truth had all of its
        k anchors refused, so that more would have to be known.
    """
    batch, rows, width = ops.shape(ious)
    order = ops.arange(rows, dtype="int32")
    earlier = order[None, :] < order[:, None]
    last = ious[:, :, -1]
    # A last column for those who have nobody left to ask.
    ious = ops.pad(ious, ((0, 0), (0, 0), (0, 1)), constant_values=0.0)
    candidates = ops.pad(candidates, ((0, 0), (0, 0), (0, 1)), constant_values=number)
    candidates = ops.where(ious > 0, candidates, number)

    def asked(turn):
        index = ops.reshape(turn, (batch * rows, 1))
        flat = (batch * rows, width + 1)
        value = gather_rows(ops.reshape(ious, flat), index)
        anchor = gather_rows(ops.reshape(candidates, flat), index)
        return ops.reshape(value, (batch, rows)), ops.reshape(anchor, (batch, rows))

    def refused(turn):
        value, anchor = asked(turn)
        same = ops.logical_and(anchor[:, :, None] == anchor[:, None, :], (anchor < number)[:, :, None])
        mine, theirs = value[:, :, None], value[:, None, :]
        beaten = ops.logical_or(theirs > mine, ops.logical_and(theirs == mine, earlier))
        return ops.any(ops.logical_and(same, beaten), axis=2)

    def again(turn, refusals):
        return ops.any(refusals)

    def step(turn, refusals):
        turn = turn + ops.cast(refusals, "int32")
        return turn, refused(turn)

    turn = ops.zeros((batch, rows), dtype="int32")
    turn, _ = ops.while_loop(again, step, (turn, refused(turn)))
    too_few = ops.any(ops.logical_and(turn >= width, last > 0))
    return asked(turn)[1], too_few


def _scatter_owners(own_anchor, number):
    """int32 `(B, A)`: which ground truth the bipartite match gave the anchor to, -1 for none."""
    batch, rows = ops.shape(own_anchor)[0], ops.shape(own_anchor)[1]
    # One slot more per image takes those without an anchor.
    first_slot = ops.arange(batch, dtype="int32")[:, None] * (number + 1)
    slots = ops.reshape(own_anchor + first_slot, (batch * rows, 1))
    row = ops.broadcast_to(ops.arange(rows, dtype="int32")[None, :], (batch, rows))
    owners = ops.full((batch * (number + 1),), -1, dtype="int32")
    owners = ops.scatter_update(owners, slots, ops.reshape(row, (batch * rows,)))
    return ops.reshape(owners, (batch, number + 1))[:, :number]

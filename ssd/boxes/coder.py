"""Offsets between anchors and boxes, as SSD regresses them (Liu et al. 2016, section 2.2)."""

from keras import ops

# Far below a pixel: the size of a padded or degenerate box, so that its (unused) logarithm stays finite.
SMALLEST_SIZE = 1e-6

# A box at most e^10 = 22,000 times its anchor: an untrained network must not make infinite boxes, whose IoU is NaN.
LARGEST_LOG_SIZE = 10.0


def to_centers(corners):
    """`(..., 4)` xmin, ymin, xmax, ymax to cx, cy, w, h."""
    low, high = corners[..., :2], corners[..., 2:]
    return ops.concatenate([(low + high) / 2, high - low], axis=-1)


def to_corners(centers):
    """`(..., 4)` cx, cy, w, h to xmin, ymin, xmax, ymax."""
    middle, half = centers[..., :2], centers[..., 2:] / 2
    return ops.concatenate([middle - half, middle + half], axis=-1)


def encode(boxes, anchors, variances):
    """Offsets that move `anchors` onto `boxes`.

    Args:
        boxes: `(..., A, 4)` corners, relative to the image.
        anchors: `(A, 4)` centre form: cx, cy, w, h, relative to the image.
        variances: four floats (cx, cy, w, h); an offset of 1 is one variance.

    Returns:
        `(..., A, 4)`: dx, dy, log dw, log dh. Finite also for boxes without a size.
    """
    centers = to_centers(boxes)
    sizes = ops.maximum(anchors[..., 2:], SMALLEST_SIZE)
    shift = (centers[..., :2] - anchors[..., :2]) / sizes
    scale = ops.log(ops.maximum(centers[..., 2:], SMALLEST_SIZE) / sizes)
    return ops.concatenate([shift, scale], axis=-1) / ops.convert_to_tensor(variances, dtype=boxes.dtype)


def decode(offsets, anchors, variances):
    """The boxes that `offsets` make of `anchors`; undoes `encode`.

    Args:
        offsets: `(..., A, 4)`.
        anchors: `(A, 4)` centre form, relative to the image.
        variances: four floats, as in `encode`.

    Returns:
        `(..., A, 4)` corners relative to the image, not clipped to it.
    """
    scaled = offsets * ops.convert_to_tensor(variances, dtype=offsets.dtype)
    sizes = ops.maximum(anchors[..., 2:], SMALLEST_SIZE)
    middle = scaled[..., :2] * sizes + anchors[..., :2]
    size = ops.exp(ops.minimum(scaled[..., 2:], LARGEST_LOG_SIZE)) * sizes
    return to_corners(ops.concatenate([middle, size], axis=-1))

"""Intersection over union of boxes given as corners."""

from keras import ops

# Below the area of any real box (a pixel of a 10,000-pixel image is 1e-8): two empty boxes have IoU 0, not NaN.
SMALLEST_AREA = 1e-12


def iou(first, second):
    """Intersection over union of every box of `first` with every box of `second`.

    Args:
        first: `(..., N, 4)` xmin, ymin, xmax, ymax.
        second: `(..., M, 4)`, the leading axes as in `first` or broadcast with them.

    Returns:
        `(..., N, M)` in [0, 1]; 0 where a box is empty.
    """
    xmin, ymin, xmax, ymax = (first[..., :, None, side] for side in range(4))
    other_xmin, other_ymin, other_xmax, other_ymax = (second[..., None, :, side] for side in range(4))
    width = ops.relu(ops.minimum(xmax, other_xmax) - ops.maximum(xmin, other_xmin))
    height = ops.relu(ops.minimum(ymax, other_ymax) - ops.maximum(ymin, other_ymin))
    intersection = width * height
    areas = (xmax - xmin) * (ymax - ymin) + (other_xmax - other_xmin) * (other_ymax - other_ymin)
    return intersection / ops.maximum(areas - intersection, SMALLEST_AREA)

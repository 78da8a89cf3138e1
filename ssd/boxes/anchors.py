"""The anchors of a detector: a fixed grid of boxes per feature map (Liu et al. 2016, section 2.2)."""

from collections.abc import Sequence

import numpy as np

Pair = tuple[float, float]


def make_anchors(
    *,
    image_size: tuple[int, int],
    feature_maps: Sequence[tuple[int, int]],
    scales: Sequence[float],
    aspect_ratios: Sequence[Sequence[float]],
    two_boxes_for_ar1: bool,
    steps: Sequence[Pair] | None,
    offsets: Sequence[Pair] | None,
    clip: bool,
) -> np.ndarray:
    """All anchors, ordered by feature map (as given), cell (row by row), then box within the cell.

    Args:
        image_size: (height, width) of the network input in pixels.
        feature_maps: (height, width) of each map in cells.
        scales: one per map and one more, relative to the shorter side of the input. The last is only used
            for the second square box of the last map.
        aspect_ratios: width / height of the boxes of a cell, one list per map.
        two_boxes_for_ar1: adds, right after a ratio of 1, a square of the geometric mean of this scale and the next.
        steps: (vertical, horizontal) pixels between cells, one pair per map. None spreads the cells evenly.
        offsets: (vertical, horizontal) place of the first centre in steps, one pair per map. None is 0.5.
        clip: moves corners outside the input to its first or last pixel.

    Returns:
        float32 `(A, 4)`: xmin, ymin, xmax, ymax relative to the input.

    Raises:
        ValueError: the lists do not fit the number of feature maps, or a cell would get the same square twice.
    """
    height, width = image_size
    maps = len(feature_maps)
    if len(scales) != maps + 1 or len(aspect_ratios) != maps:
        raise ValueError(
            f"{maps} feature maps need {maps + 1} scales and {maps} lists of aspect ratios, "
            f"not {len(scales)} and {len(aspect_ratios)}"
        )
    for name, pairs in (("steps", steps), ("offsets", offsets)):
        if pairs is not None and len(pairs) != maps:
            raise ValueError(f"{maps} feature maps need {maps} {name}, not {len(pairs)}")

    grids = []
    for index, (rows, columns) in enumerate(feature_maps):
        step_y, step_x = steps[index] if steps is not None else (height / rows, width / columns)
        offset_y, offset_x = offsets[index] if offsets is not None else (0.5, 0.5)
        sizes = cell_sizes(
            aspect_ratios[index], scales[index], scales[index + 1], two_boxes_for_ar1, side=min(height, width)
        )
        centers_y = (offset_y + np.arange(rows)) * step_y
        centers_x = (offset_x + np.arange(columns)) * step_x
        centers = np.stack(np.meshgrid(centers_x, centers_y), axis=-1)[:, :, None, :]
        grids.append(np.concatenate([centers - sizes / 2, centers + sizes / 2], axis=-1).reshape(-1, 4))

    corners = np.concatenate(grids)
    limits = np.array([width, height, width, height], np.float64)
    if clip:
        # TAO's rule, kept so that its weights meet the anchors they were trained on: what lies between the
        # last pixel and the border stays.
        corners = np.where(corners >= limits, limits - 1, np.maximum(corners, 0))
    return (corners / limits).astype(np.float32)


def cell_sizes(
    ratios: Sequence[float], scale: float, next_scale: float, two_boxes_for_ar1: bool, side: int
) -> np.ndarray:
    """Widths and heights in pixels of the boxes of one cell: `(boxes, 2)`."""
    if list(ratios).count(1.0) > 1:
        raise ValueError(f"aspect ratio 1 appears more than once in {list(ratios)}")
    sizes = []
    for ratio in ratios:
        sizes.append((scale * side * ratio**0.5, scale * side / ratio**0.5))
        if ratio == 1.0 and two_boxes_for_ar1:
            sizes.append((side * (scale * next_scale) ** 0.5,) * 2)
    return np.array(sizes, np.float64)

"""How well the anchors of a network cover boxes: the best IoU of every box with every kind of anchor.

IoU does not change when an axis is stretched, so relative coordinates give what the resized image gives. All anchors
of one kind (feature map, aspect ratio) have one size and stand on a grid, so the overlap with the best of them is the
best overlap along x times the best along y: boxes times (rows + columns) work, not boxes times cells.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ssd.boxes.anchors import cell_sizes
from ssd.spec.config import Network

Size = tuple[int, int]  # height, width

# Overlaps held at a time; such arrays stay in a processor's cache.
BLOCK = 1 << 18
# Anchors of a grid whose sides differ by less than this are the same size: what float32 makes of one number.
ROUNDING = 1e-5


@dataclass(frozen=True)
class Shape:
    """One kind of anchor: a box of the cells of one feature map."""

    map: int  # from 0, the finest
    ratio: float  # width / height
    second: bool  # the second square of a cell, between this scale and the next
    width: float  # px of the network input, before any clipping
    height: float

    @property
    def name(self) -> str:
        """`1.4`; `1+` for the second square."""
        return f"{self.ratio:.3g}{'+' if self.second else ''}"


def anchor_shapes(network: Network, image_size: Size) -> list[Shape]:
    """The kinds of anchors, in the order in which `make_anchors` puts them into a cell, map after map."""
    shapes = []
    for index, ratios in enumerate(network.aspect_ratios):
        scales = network.scales[index : index + 2]
        sizes = cell_sizes(ratios, *scales, network.two_boxes_for_ar1, side=min(image_size))
        names = [
            (ratio, second)
            for ratio in ratios
            for second in ((False, True) if network.two_boxes_for_ar1 and ratio == 1.0 else (False,))
        ]
        shapes += [
            Shape(index, ratio, second, float(width), float(height))
            for (ratio, second), (width, height) in zip(names, sizes, strict=True)
        ]
    return shapes


def best_ious(
    boxes: np.ndarray, anchors: np.ndarray, feature_maps: Sequence[Size], boxes_per_cell: Sequence[int]
) -> np.ndarray:
    """The best IoU of each box with the anchors of each kind.

    Args:
        boxes: `(T, 4)` corners, relative.
        anchors: `(A, 4)` corners, relative, in the order of `make_anchors`.
        feature_maps: height, width of each map in cells.
        boxes_per_cell: anchors of a cell, per map.

    Returns:
        float32 `(T, S)`, a column for each of `anchor_shapes`.
    """
    boxes, columns, first = boxes.astype(np.float64), [], 0
    for (rows, cells), kinds in zip(feature_maps, boxes_per_cell, strict=True):
        count = rows * cells * kinds
        grid = anchors[first : first + count].reshape(rows, cells, kinds, 4).astype(np.float64)
        first += count
        # Clipping treats the axes apart too: the anchors of a kind are all pairs of these intervals.
        columns += [_best_of_grid(boxes, grid[0, :, kind, ::2], grid[:, 0, kind, 1::2]) for kind in range(kinds)]
    return np.stack(columns, axis=1).astype(np.float32)


def _best_of_grid(boxes: np.ndarray, across: np.ndarray, down: np.ndarray) -> np.ndarray:
    """`(T,)` best IoU with the boxes that are a product of intervals `(columns, 2)` and `(rows, 2)`."""
    widths, heights = across[:, 1] - across[:, 0], down[:, 1] - down[:, 0]
    one_size = np.ptp(widths) <= ROUNDING * widths.max() and np.ptp(heights) <= ROUNDING * heights.max()
    block = max(BLOCK // (len(across) + len(down) if one_size else len(across) * len(down)), 1)
    best = np.empty(len(boxes))
    for begin in range(0, len(boxes), block):
        part = boxes[begin : begin + block]
        horizontal, vertical = _overlap(part[:, 0], part[:, 2], across), _overlap(part[:, 1], part[:, 3], down)
        areas = (part[:, 2] - part[:, 0]) * (part[:, 3] - part[:, 1])
        if one_size:
            shared, area = horizontal.max(axis=1) * vertical.max(axis=1), widths[0] * heights[0]
            best[begin : begin + block] = shared / (areas + area - shared)
        else:  # clipped at the border: there a smaller overlap with a smaller box can be the better one
            shared = vertical[:, :, None] * horizontal[:, None, :]
            union = areas[:, None, None] + heights[:, None] * widths - shared
            best[begin : begin + block] = (shared / union).max(axis=(1, 2))
    return best


def _overlap(low: np.ndarray, high: np.ndarray, intervals: np.ndarray) -> np.ndarray:
    """`(T, n)`: length of what the intervals `[low, high]` share with each of `intervals` `(n, 2)`."""
    shared = np.minimum(high[:, None], intervals[:, 1]) - np.maximum(low[:, None], intervals[:, 0])
    return np.maximum(shared, 0.0)

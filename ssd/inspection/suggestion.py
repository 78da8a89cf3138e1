"""Scales and aspect ratios that fit the boxes of a data set better, at the same number of anchors.

Starts from k-means under IoU (Redmon & Farhadi 2017, section 2, "dimension clusters") and from the present anchors,
then improves one number at a time. What a change is worth is measured on the anchors' real grid: a size that fits is
of no use on a feature map whose cells lie too far apart. No chance is involved: the same boxes, the same answer.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from ssd.inspection.coverage import Size, anchor_shapes
from ssd.spec.config import FEATURE_MAPS, Network

# Fewer boxes say nothing about those to come.
FEWEST_BOXES = 20
# Boxes that the search looks at; of more, evenly chosen ones.
MOST_BOXES = 8000
# How much the boxes count as the strongest zoom-out shows them; the rest goes to the boxes as they are.
ZOOMED_SHARE = 0.3
# A candidate must be better by this much of the score (about a point of recall and of mean IoU) to be worth a change.
WORTH = 0.01
STEPS = (0.75, 0.9, 0.97, 1.03, 1.1, 1.33)
PASSES = 20
# Neighbouring scales keep apart, and none exceeds the image.
APART = 1.08
# A cell must see what it is to find: larger anchors, in cells of its map, are not suggested. The first four maps of the
# original SSD300 have anchors of 2.4 to 6.2 cells (Liu et al. 2016, section 2.2 and its published configuration).
MOST_CELLS = 6.0
# What the score may lose for scales that rise evenly to the whole image where hardly a box needs them.
TIDY = 0.002
SMALLEST_SCALE, LARGEST_RATIO = 0.005, 8.0


def suggest(
    network: Network,
    image_size: Size,
    feature_maps: Sequence[Size],
    boxes: np.ndarray,
    classes: np.ndarray,
    zoom: float = 1.0,
) -> Network | None:
    """`network` with other scales and aspect ratios, as many as before; None where there is nothing better to name.

    Args:
        boxes: `(T, 4)` corners, relative.
        classes: `(T,)`; every class weighs the same, as it does in mAP.
        zoom: the largest factor by which training zooms out; the boxes count so too, lest anchors that fit the images
            as they are miss what the network is shown.

    Ratios stay the same for all maps where they were, unless a list for each map is clearly better.
    """
    if len(boxes) < FEWEST_BOXES:
        return None
    chosen = np.linspace(0, len(boxes) - 1, min(len(boxes), MOST_BOXES)).astype(int)
    chosen = np.argsort(classes, kind="stable")[chosen]
    search = _Search(network, image_size, feature_maps, boxes[chosen], classes[chosen], zoom)
    shared = len(set(network.aspect_ratios)) == 1
    best = max((search.improve(start, shared) for start in search.starts()), key=search.score)
    if shared:
        apart = search.improve(best, shared=False)
        best = apart if search.score(apart) > search.score(best) + WORTH else best
    best = search.tidy(best)
    return best if search.score(best) > search.score(network) + WORTH else None


def kmeans_iou(sizes: np.ndarray, weights: np.ndarray, k: int, rounds: int = 60) -> np.ndarray:
    """Centres `(k, 2)` of widths and heights `(T, 2)` under the distance 1 - IoU, smallest first.

    Begins with sizes at even places of the sizes sorted by area, so it needs no chance.
    """
    order = np.argsort(sizes.prod(axis=1), kind="stable")
    share = np.cumsum(weights[order]) / weights.sum()
    centers = sizes[order[np.searchsorted(share, (np.arange(k) + 0.5) / k)]]
    nearest = None
    for _ in range(rounds):
        shared = np.minimum(sizes[:, None], centers).prod(axis=2)
        overlaps = shared / (sizes.prod(axis=1)[:, None] + centers.prod(axis=1) - shared)
        before, nearest = nearest, overlaps.argmax(axis=1)
        if before is not None and (before == nearest).all():
            break
        for index in range(k):
            mine = nearest == index
            if mine.any():
                centers[index] = np.average(sizes[mine], axis=0, weights=weights[mine])
    return centers[np.argsort(centers.prod(axis=1), kind="stable")]


class _Search:
    """Scores networks that differ in scales and aspect ratios on one set of boxes."""

    def __init__(self, network: Network, image_size: Size, feature_maps, boxes, classes: np.ndarray, zoom: float):
        self.network, self.image_size, self.side = network, image_size, min(image_size)
        height, width = image_size
        shares = np.ones(len(boxes))
        _, self._as_they_are = np.unique(classes, return_inverse=True)
        if zoom > 1.0:
            boxes, classes = np.concatenate([boxes, zoomed_out(boxes, zoom)]), np.tile(classes, 2)
            shares = np.repeat((1 - ZOOMED_SHARE, ZOOMED_SHARE), len(shares))
        boxes = boxes.astype(np.float64) * (width, height, width, height)
        self.sizes = boxes[:, 2:] - boxes[:, :2]
        self.lengths, self.areas = np.ascontiguousarray(self.sizes.T), self.sizes.prod(axis=1)
        _, which = np.unique(classes, return_inverse=True)
        totals = np.bincount(which, shares)
        self.weights = shares / (len(totals) * totals[which])
        steps = network.steps or [(height / rows, width / columns) for rows, columns in feature_maps]
        self.limits = [min(max(pair) * MOST_CELLS / self.side, 1.0) for pair in steps]
        distances = center_distances((boxes[:, 2:] + boxes[:, :2]) / 2, network, image_size, feature_maps)
        self.distances = [np.ascontiguousarray(distance.T) for distance in distances]
        self._known: dict[tuple, np.ndarray] = {}
        self._present = self._by_class(self._best(network))

    def score(self, network: Network) -> float:
        """The mean of recall at `pos_iou_thresh` and of the mean best IoU, every class weighing the same; less what any
        class loses of the mean best IoU that the present anchors have with its boxes as they are."""
        best = self._best(network)
        lost = np.maximum(self._present - self._by_class(best), 0.0).sum()
        return float(self.weights @ (best + (best >= network.pos_iou_thresh))) / 2 - float(lost)

    def _best(self, network: Network) -> np.ndarray:
        return np.max([self._of_map(network, index) for index in range(FEATURE_MAPS)], axis=0)

    def _by_class(self, best: np.ndarray) -> np.ndarray:
        """`(classes,)` means over the boxes as they are, which come first."""
        return np.bincount(self._as_they_are, best[: len(self._as_they_are)]) / np.bincount(self._as_they_are)

    def _of_map(self, network: Network, index: int) -> np.ndarray:
        """`(T,)` best IoU with the anchors of one feature map, as if none was clipped."""
        key = (index, network.scales[index], network.scales[index + 1], network.aspect_ratios[index])
        if key not in self._known:
            if len(self._known) > 100:  # a memory of what the last changes left as it was, not of everything
                self._known.clear()
            shapes = [shape for shape in anchor_shapes(network, self.image_size) if shape.map == index]
            self._known[key] = np.max([self._of_shape(shape.width, shape.height, index) for shape in shapes], axis=0)
        return self._known[key]

    def _of_shape(self, width: float, height: float, index: int) -> np.ndarray:
        # Of boxes of one size, the one with the nearest centre overlaps most.
        shared = self._along(0, width, index) * self._along(1, height, index)
        return shared / (self.areas + width * height - shared)

    def _along(self, axis: int, length: float, index: int) -> np.ndarray:
        """`(T,)` px that each box shares with the nearest anchor of this length; axis 0 is x."""
        own = self.lengths[axis]
        reach = (own + length) / 2 - self.distances[index][axis]
        return np.maximum(np.minimum(np.minimum(reach, own), length), 0.0)

    def starts(self) -> list[Network]:
        """Where the search begins: the present anchors, clusters of sizes, even spacing over the sizes there are."""
        present = self.network
        ratios = self._cluster_ratios()
        lengths = np.sqrt(self.sizes.prod(axis=1)) / self.side
        low, high = np.quantile(lengths, (0.05, 0.95))
        clusters = np.sqrt(kmeans_iou(self.sizes, self.weights, FEATURE_MAPS).prod(axis=1)) / self.side
        rows = [present.scales, (*clusters, clusters[-1] * 1.25)]
        rows += [_spaced(low, high, count) for count in (2, 3, 4, 6)]
        scales = [_in_order(row, self.limits) for row in rows]
        return [present, *(dataclasses.replace(present, scales=row, aspect_ratios=ratios) for row in scales)]

    def _cluster_ratios(self) -> tuple[tuple[float, ...], ...]:
        """As many ratios as each map has, by k-means on boxes brought to one area; 1 stays where it makes two boxes."""
        flat = self.sizes / np.sqrt(self.sizes.prod(axis=1, keepdims=True))
        found = {}
        for ratios in set(self.network.aspect_ratios):
            centers = kmeans_iou(flat, self.weights, len(ratios))
            values = sorted(_ratio(width / height) for width, height in centers)
            if 1.0 in ratios and self.network.two_boxes_for_ar1:
                nearest = min(range(len(values)), key=lambda index: abs(np.log(values[index])))
                values = [1.0, *values[:nearest], *values[nearest + 1 :]]
            # Where the boxes are all alike, the present ratios are as good as any.
            found[ratios] = tuple(values) if _distinct(values) else ratios
        return tuple(found[ratios] for ratios in self.network.aspect_ratios)

    def improve(self, network: Network, shared: bool) -> Network:
        """Changes one number at a time for as long as the score rises. `shared`: one list of ratios for all maps."""
        best = self.score(network)
        for _ in range(PASSES):
            before = best
            for change in self._changes(network, shared):
                for step in STEPS:
                    candidate = change(network, step)
                    if candidate is not None and (score := self.score(candidate)) > best + 1e-5:
                        network, best = candidate, score
            if best < before + 1e-4:
                break
        return network

    def tidy(self, network: Network) -> Network:
        """The scales of the coarse maps spread evenly up to the whole image, as far as boxes do not need them."""
        for index in range(FEATURE_MAPS):
            row = network.scales[: index + 1]
            rest = np.linspace(row[-1], max(1.0, row[-1]), FEATURE_MAPS + 1 - index)[1:]
            candidate = dataclasses.replace(network, scales=_in_order((*row, *rest), self.limits))
            if self.score(candidate) >= self.score(network) - TIDY:
                return candidate
        return network

    def _changes(self, network: Network, shared: bool) -> list:
        """Functions `(network, factor) -> network`, or None where the result is not allowed."""
        changes = [
            lambda now, step, index=index: _with_scale(now, index, step, self.limits)
            for index in range(FEATURE_MAPS + 1)
        ]
        for index in (None,) if shared else range(FEATURE_MAPS):
            changes += [
                lambda now, step, index=index, place=place: _with_ratio(now, index, place, step)
                for place, ratio in enumerate(network.aspect_ratios[index or 0])
                if not (ratio == 1.0 and network.two_boxes_for_ar1)
            ]
        return changes


def zoomed_out(boxes: np.ndarray, zoom: float) -> np.ndarray:
    """Relative corners of boxes whose image lies in the middle of a canvas `zoom` times as wide and high."""
    return ((boxes.astype(np.float64) - 0.5) / zoom + 0.5).astype(np.float32)


def center_distances(centers: np.ndarray, network: Network, image_size: Size, feature_maps) -> list[np.ndarray]:
    """Per feature map `(T, 2)`: px along x and y from the centre of each box to that of the nearest cell."""
    found = []
    for index, cells in enumerate(feature_maps):
        axes = []
        for axis in (1, 0):
            step = network.steps[index][axis] if network.steps else image_size[axis] / cells[axis]
            offset = network.offsets[index][axis] if network.offsets else 0.5
            along = centers[:, 1 - axis]
            cell = np.clip(np.round(along / step - offset), 0, cells[axis] - 1)
            axes.append(np.abs(along - (cell + offset) * step))
        found.append(np.stack(axes, axis=1))
    return found


def _with_scale(network: Network, index: int, step: float, limits: Sequence[float]) -> Network | None:
    scales = list(network.scales)
    scales[index] = _scale(scales[index] * step)
    low = scales[index - 1] * APART if index else SMALLEST_SCALE
    high = min(scales[index + 1] / APART, limits[index]) if index < FEATURE_MAPS else 1.0
    if not low <= scales[index] <= high:
        return None
    return dataclasses.replace(network, scales=tuple(scales))


def _with_ratio(network: Network, index: int | None, place: int, step: float) -> Network | None:
    """With ratio number `place` of map `index`, or of all maps, multiplied by `step`."""
    rows = [list(ratios) for ratios in network.aspect_ratios]
    for row in rows if index is None else [rows[index]]:
        row[place] = _ratio(row[place] * step)
        if not _distinct(row) or not 1 / LARGEST_RATIO <= row[place] <= LARGEST_RATIO:
            return None
    return dataclasses.replace(network, aspect_ratios=tuple(map(tuple, rows)))


def _distinct(ratios: Sequence[float]) -> bool:
    return min(np.diff(np.log(sorted(ratios))), default=1.0) > 0.05


def _spaced(low: float, high: float, count: int) -> tuple[float, ...]:
    """Seven scales: `count` evenly (by factors) from `low` to `high`, the rest on to the whole image."""
    first = np.geomspace(low, high, count)
    return (*first, *np.linspace(high, max(1.0, high), FEATURE_MAPS + 2 - count)[1:])


def _in_order(scales: Sequence[float], limits: Sequence[float]) -> tuple[float, ...]:
    """Scales made to rise and to stay within the limits of their maps, rounded as a spec would have them."""
    rising = []
    for scale in scales:
        rising.append(max(scale, rising[-1] * APART * 1.01 if rising else SMALLEST_SCALE))
    limit = 1.0
    for index in reversed(range(len(rising))):
        rising[index] = min(rising[index], limit, limits[index] if index < FEATURE_MAPS else 1.0)
        limit = rising[index] / APART / 1.01
    return tuple(map(_scale, rising))


def _scale(value: float) -> float:
    return float(f"{value:.3f}")


def _ratio(value: float) -> float:
    return float(f"{value:.2f}") if value >= 0.3 else float(f"{value:.3f}")

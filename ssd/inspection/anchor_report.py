"""The anchor report: which ground truth the anchors cover, which anchors nothing uses, and what would fit better."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ssd.data.sources import ImageIndex
from ssd.inspection.coverage import Shape, Size, anchor_shapes, best_ious
from ssd.inspection.sizes import SIZES, pixel_sizes, size_class
from ssd.inspection.suggestion import center_distances, suggest, zoomed_out
from ssd.models.detector import anchors_of
from ssd.spec.config import Network

RECALL_AT = 0.5


@dataclass(frozen=True)
class Coverage:
    """How the anchors of one network meet the T boxes of one data set.

    Attributes:
        shapes: the S kinds of anchors.
        ious: float32 `(T, S)`, best IoU of each box with each kind.
    """

    network: Network
    shapes: list[Shape]
    ious: np.ndarray

    @property
    def best(self) -> np.ndarray:
        """`(T,)` best IoU with any anchor."""
        return self.ious.max(axis=1)

    @property
    def used(self) -> np.ndarray:
        """bool `(S,)`: kinds of which some anchor is the best of a box, or overlaps one enough to learn it."""
        best_kind = np.bincount(self.ious.argmax(axis=1), minlength=len(self.shapes)) if len(self.ious) else 0
        return (best_kind > 0) | (self.ious >= self.network.pos_iou_thresh).any(axis=0)

    def by_map(self, maps: int) -> list[tuple[int, int]]:
        """Per feature map: boxes whose best anchor is there, boxes that some anchor there overlaps enough to learn."""
        owners = np.array([shape.map for shape in self.shapes])
        nearest = owners[self.ious.argmax(axis=1)]
        enough = self.ious >= self.network.pos_iou_thresh
        return [
            (int((nearest == index).sum()), int(enough[:, owners == index].any(axis=1).sum())) for index in range(maps)
        ]


@dataclass(frozen=True)
class AnchorReport:
    """`present` and `suggested` on the training data; `held_out`: the same two on the validation data, where given.

    `zoomed`: the two on the training data as random zoom-out shows them at most, shrunk by `zoom`.
    """

    classes: tuple[str, ...]
    image_size: Size
    feature_maps: tuple[Size, ...]
    training: ImageIndex
    limit: np.ndarray  # (T,) best IoU that an anchor of the box's own size would have on these feature maps
    present: Coverage
    suggested: Coverage | None
    validation: ImageIndex | None
    held_out: tuple[Coverage, ...]
    zoom: float
    zoomed: tuple[Coverage, ...]


def cover(network: Network, image_size: Size, feature_maps: Sequence[Size], boxes: np.ndarray) -> Coverage:
    """The coverage of `boxes` `(T, 4)`, corners relative to the image, by the anchors of `network`."""
    anchors = anchors_of(network, image_size, feature_maps)
    ious = best_ious(boxes, anchors, feature_maps, network.boxes_per_cell)
    return Coverage(network, anchor_shapes(network, image_size), ious)


def inspect_anchors(
    network: Network,
    image_size: Size,
    feature_maps: Sequence[Size],
    classes: Sequence[str],
    training: ImageIndex,
    validation: ImageIndex | None,
    zoom: float = 1.0,
) -> AnchorReport:
    """Measures the present anchors, looks for better ones and measures those too.

    Boxes and anchors are compared after the plain resize; of the random crops of training only the strongest zoom-out
    is looked at, since small objects are the ones that anchors miss.

    Args:
        image_size: height, width of the network input, px.
        zoom: the largest factor of random zoom-out.
    """
    suggestion = suggest(network, image_size, feature_maps, training.boxes, training.classes, zoom)
    both = [network] if suggestion is None else [network, suggestion]
    seen = [cover(one, image_size, feature_maps, training.boxes) for one in both]
    unseen = [cover(one, image_size, feature_maps, validation.boxes) for one in both] if validation else []
    smaller = zoomed_out(training.boxes, zoom)
    shrunk = [cover(one, image_size, feature_maps, smaller) for one in both] if zoom > 1.0 else []
    return AnchorReport(
        classes=tuple(classes),
        image_size=tuple(image_size),
        feature_maps=tuple(map(tuple, feature_maps)),
        training=training,
        limit=grid_limit(network, image_size, feature_maps, training.boxes),
        present=seen[0],
        suggested=seen[1] if len(seen) > 1 else None,
        validation=validation,
        held_out=tuple(unseen),
        zoom=zoom,
        zoomed=tuple(shrunk),
    )


def grid_limit(network: Network, image_size: Size, feature_maps: Sequence[Size], boxes: np.ndarray) -> np.ndarray:
    """`(T,)`: IoU of each box with an anchor of its own size, on the feature map where that lies nearest.

    What no choice of scales and ratios can exceed: only a larger network input, or finer maps, can.
    """
    height, width = image_size
    boxes = boxes.astype(np.float64) * (width, height, width, height)
    sizes = boxes[:, 2:] - boxes[:, :2]
    areas, best = sizes.prod(axis=1), np.zeros(len(boxes))
    for distance in center_distances((boxes[:, :2] + boxes[:, 2:]) / 2, network, image_size, feature_maps):
        shared = np.maximum(sizes - distance, 0.0).prod(axis=1)
        best = np.maximum(best, shared / (2 * areas - shared))
    return best


def groups(report: AnchorReport) -> list[tuple[str, np.ndarray]]:
    """(name, bool `(T,)`) of every class, every size at the network's input, and all boxes."""
    training = report.training
    sizes = size_class(*pixel_sizes(training.boxes, report.image_size).T)
    rows = [(name, training.classes == index) for index, name in enumerate(report.classes, start=1)]
    rows += [(f"{name} at network size", sizes == index) for index, name in enumerate(SIZES)]
    return [*rows, ("all", np.ones(len(training.boxes), bool))]


def numbers(report: AnchorReport) -> dict[str, dict]:
    """Per group: objects, recall, mean best IoU of the present and the suggested anchors, and the grid's limit."""
    found = {}
    for name, mask in groups(report):
        row: dict = {"objects": int(mask.sum())}
        for key, coverage in (("present", report.present), ("suggested", report.suggested)):
            if coverage is not None:
                row[key] = _rates(coverage.best[mask], coverage.network.pos_iou_thresh)
        row["grid_limit"] = float(report.limit[mask].mean()) if mask.any() else None
        found[name] = row
    return found


def _rates(best: np.ndarray, threshold: float) -> dict[str, float | None]:
    if not len(best):
        return {"recall_50": None, "recall_pos": None, "mean_iou": None}
    return {
        "recall_50": float((best >= RECALL_AT).mean()),
        "recall_pos": float((best >= threshold).mean()),
        "mean_iou": float(best.mean()),
    }


def spec_text(network: Network) -> str:
    """The two lines for `ssd_config`."""
    rows = [f"[{', '.join(map(repr, ratios))}]" for ratios in network.aspect_ratios]
    ratios = f'aspect_ratios_global: "{rows[0]}"' if len(set(rows)) == 1 else f'aspect_ratios: "[{", ".join(rows)}]"'
    return f'scales: "[{", ".join(map(repr, network.scales))}]"\n{ratios}'


def uncovered(report: AnchorReport) -> list[tuple[str, str, float, float, float]]:
    """Boxes under `RECALL_AT`, the worst first: image, class, width and height in px at the network, best IoU."""
    best, training = report.present.best, report.training
    images = np.repeat(np.arange(len(training)), training.counts)
    sizes = pixel_sizes(training.boxes, report.image_size)
    missed = np.flatnonzero(best < RECALL_AT)
    return [
        (
            training.names[images[index]],
            report.classes[training.classes[index] - 1],
            *map(float, sizes[index]),
            float(best[index]),
        )
        for index in missed[np.argsort(best[missed], kind="stable")]
    ]


def class_mean(coverage: Coverage, classes: np.ndarray) -> tuple[float, float]:
    """Recall at `RECALL_AT` and mean best IoU, every class weighing the same."""
    parts = [coverage.best[classes == index] for index in np.unique(classes)]
    recalls, means = [np.mean(part >= RECALL_AT) for part in parts], [part.mean() for part in parts]
    return float(np.mean(recalls)), float(np.mean(means))


def as_json(report: AnchorReport) -> dict:
    """What the text says, for programs."""
    per_map = report.present.by_map(len(report.feature_maps))
    return {
        "image_size": list(report.image_size),
        "groups": numbers(report),
        "maps": [
            {"cells": list(cells), "best_for": best, "positive_for": enough}
            for cells, (best, enough) in zip(report.feature_maps, per_map, strict=True)
        ],
        "shapes": [
            {
                "map": shape.map,
                "ratio": shape.ratio,
                "second": shape.second,
                "width": shape.width,
                "height": shape.height,
                "used": bool(used),
            }
            for shape, used in zip(report.present.shapes, report.present.used, strict=True)
        ],
        "uncovered": len(uncovered(report)),
        "suggestion": report.suggested
        and {
            "scales": list(report.suggested.network.scales),
            "aspect_ratios": [list(ratios) for ratios in report.suggested.network.aspect_ratios],
            "text": spec_text(report.suggested.network),
        },
    }

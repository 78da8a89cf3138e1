"""The ground truth of one image, and how annotation rows become it: class mapping, clipping, what is dropped."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ssd.data.audit import LabelProblem
from ssd.spec.config import class_key

# A box that sticks out of its image by no more than this is rounding of the labelling tool, not worth a line.
SLACK_PX = 1.0
# What remains of a box inside the image must be at least this wide and high to be an object.
SMALLEST_PX = 1.0
# KITTI's mark for regions that nobody labelled; never an object unless the mapping names it.
DONT_CARE = "dontcare"


@dataclass(frozen=True)
class LabelRow:
    """One annotated object, with KITTI's columns; COCO's leave the three-dimensional ones 0."""

    name: str
    truncation: float
    occlusion: float
    alpha: float
    box: tuple[float, float, float, float]  # left, top, right, bottom; px
    dimensions: tuple[float, float, float] = (0.0, 0.0, 0.0)  # h, w, l; m
    location: tuple[float, float, float] = (0.0, 0.0, 0.0)  # x, y, z; m
    rotation_y: float = 0.0
    score: float | None = None
    line: int | None = None  # in the label file, from 1
    item: str = ""  # what the row is called where files have no lines: "annotation 12: "


@dataclass(frozen=True)
class Objects:
    """Ground truth of one image of N objects.

    Attributes:
        boxes: float32 `(N, 4)` xmin, ymin, xmax, ymax, relative to the upright (EXIF-oriented) image, in [0, 1].
        classes: int32 `(N,)`, from 1.
        difficult: bool `(N,)`: occluded (KITTI's column 3 is neither 0 nor -1, which means "not stated"), or a crowd.
    """

    boxes: np.ndarray
    classes: np.ndarray
    difficult: np.ndarray

    def __len__(self) -> int:
        return len(self.classes)


def is_difficult(occlusion: Sequence[float]) -> np.ndarray:
    """KITTI's occlusion column `(N,)` -> bool `(N,)`; truncated to integers, as TAO read it."""
    level = np.asarray(occlusion, np.float64).astype(np.int64)
    return (level != 0) & (level != -1)


def class_indices(classes: Sequence[str], class_mapping: Sequence[tuple[str, str]] = ()) -> dict[str, int]:
    """Normalised source name -> class index from 1. Without a mapping every class stands for itself."""
    index = {name: number for number, name in enumerate(classes, start=1)}
    mapping = class_mapping or [(name, name) for name in classes]
    return {class_key(source): index[target] for source, target in mapping}


def place(
    rows: Sequence[LabelRow], size: tuple[int, int], indices: dict[str, int], file: str
) -> tuple[list[LabelRow], Objects, list[LabelProblem]]:
    """Puts annotation rows on their image.

    Args:
        rows: the objects of one image, boxes in px of the upright image.
        size: height, width of the upright image, px.
        indices: `class_indices(...)`.
        file: named in the problems.

    Returns:
        The rows that remain, their ground truth in the same order, and the problems: unmapped classes, boxes
        outside the image or cut by its border. DontCare rows go without a word.
    """
    height, width = size
    kept: list[LabelRow] = []
    boxes: list[list[float]] = []
    classes: list[int] = []
    problems: list[LabelProblem] = []
    for row in rows:
        index = indices.get(class_key(row.name))
        if index is None:
            if class_key(row.name) != DONT_CARE:
                detail = f"{row.item}class '{row.name}' is not in target_class_mapping"
                problems.append(LabelProblem(file, row.line, "unmapped class", detail, "object"))
            continue
        x1, y1, x2, y2 = row.box
        box = [min(max(x1, 0.0), width), min(max(y1, 0.0), height), min(max(x2, 0.0), width), min(max(y2, 0.0), height)]
        shown = f"{row.item}box ({x1:g}, {y1:g}, {x2:g}, {y2:g})"
        if box[2] - box[0] < SMALLEST_PX or box[3] - box[1] < SMALLEST_PX:
            outside = x1 >= width or y1 >= height or x2 <= 0 or y2 <= 0
            kind = "box outside the image" if outside else "empty box"
            what = "lies outside" if outside else "has less than one pixel in"
            problems.append(LabelProblem(file, row.line, kind, f"{shown} {what} the {width}x{height} image", "object"))
            continue
        if max(-x1, -y1, x2 - width, y2 - height) > SLACK_PX:
            detail = f"{shown} reaches out of the {width}x{height} image: clipped"
            problems.append(LabelProblem(file, row.line, "box outside the image", detail, "clipped"))
        kept.append(row)
        boxes.append([box[0] / width, box[1] / height, box[2] / width, box[3] / height])
        classes.append(index)
    truth = Objects(
        boxes=np.asarray(boxes, np.float32).reshape(-1, 4),
        classes=np.asarray(classes, np.int32),
        difficult=is_difficult([row.occlusion for row in kept]),
    )
    return kept, truth, problems


def box_fault(box: Sequence[float]) -> str | None:
    """Why four pixel coordinates are no box, or None: `inverted box`, `empty box`."""
    x1, y1, x2, y2 = box
    if not all(math.isfinite(value) for value in box):
        return "not a number"
    if x2 < x1 or y2 < y1:
        return "inverted box"
    return "empty box" if x1 == x2 or y1 == y2 else None

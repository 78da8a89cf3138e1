"""What one image gave: its detections beside its ground truth. All of `evaluation` starts from a list of these."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ImageResult:
    """Boxes are corners (xmin, ymin, xmax, ymax) relative to the image after EXIF orientation; classes count from 1."""

    name: str
    size: tuple[int, int]  # height, width in pixels of the original image
    boxes: np.ndarray  # float32 (D, 4)
    scores: np.ndarray  # float32 (D,), descending
    classes: np.ndarray  # int32 (D,)
    truth_boxes: np.ndarray  # float32 (T, 4)
    truth_classes: np.ndarray  # int32 (T,)
    truth_difficult: np.ndarray  # bool (T,): neither an object to find nor a mistake to detect
    index: int = -1  # position in the loader, for `Loader.image_bytes`


def to_pixels(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Relative corners `(N, 4)` as float64 pixels of an image of `size` (height, width), clipped to the image."""
    height, width = size
    clipped = np.clip(np.asarray(boxes, np.float64).reshape(-1, 4), 0.0, 1.0)
    return clipped * np.array([width, height, width, height], np.float64)

"""Small, medium, large: COCO's areas, 32 and 96 px squared (cocodataset.org, detection evaluation)."""

import numpy as np

SIZES = ("small", "medium", "large")
LIMITS = (32**2, 96**2)  # px^2; an area on a limit belongs to the larger size


def pixel_sizes(boxes: np.ndarray, image_sizes) -> np.ndarray:
    """float64 `(T, 2)` width, height in px of relative corners `(T, 4)`; image_sizes: height, width or `(T, 2)`."""
    relative = boxes[:, 2:].astype(np.float64) - boxes[:, :2]
    return relative * np.asarray(image_sizes, np.float64)[..., ::-1]


def size_class(widths: np.ndarray, heights: np.ndarray) -> np.ndarray:
    """int `(T,)`: index into `SIZES`."""
    # Relative corners are float32: what was labelled 32x32 px shall not come out as a hair less.
    return np.searchsorted(LIMITS, (widths * heights).round(1), side="right")

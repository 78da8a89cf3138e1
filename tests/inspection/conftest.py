"""An index of images without files, for what only looks at boxes."""

import numpy as np
import pytest

from ssd.data.sources import ImageIndex


@pytest.fixture
def make_index():
    def make(images, size=(100, 200), names=None, files=None) -> ImageIndex:
        """`images`: per image a list of (class, (xmin, ymin, xmax, ymax) in px); `size`: height, width of all."""
        height, width = size
        counts = [len(objects) for objects in images]
        flat = [item for objects in images for item in objects]
        boxes = np.array([box for _, box in flat], np.float64).reshape(-1, 4) / (width, height, width, height)
        names = names or [f"{number}.jpg" for number in range(len(images))]
        return ImageIndex(
            names=names,
            files=files or names,
            spans=np.tile(np.array([0, -1, 0, 0]), (len(images), 1)),
            sizes=np.tile(np.array([size], np.int32), (len(images), 1)),
            orientations=np.ones(len(images), np.int32),
            starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            boxes=boxes.astype(np.float32),
            classes=np.array([label for label, _ in flat], np.int32),
            difficult=np.zeros(len(flat), bool),
            left_out=np.zeros(len(images), np.int32),
        )

    return make

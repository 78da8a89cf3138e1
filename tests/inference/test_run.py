from collections import namedtuple

import numpy as np

from ssd.inference.run import infer

Detections = namedtuple("Detections", "boxes scores classes valid")


class Notes:
    """A writer that remembers."""

    def __init__(self):
        self.rows = []

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.rows.append("closed")

    def add(self, *row):
        self.rows.append(row)


def predict(images):
    """As many detections as the first pixel of the image says, of four places."""
    count = len(images)
    valid = images[:, 0, 0, 0].astype(np.int32)
    boxes = np.tile(np.arange(16, dtype=np.float32).reshape(4, 4), (count, 1, 1))
    return Detections(boxes, np.tile(np.float32([4, 3, 2, 1]), (count, 1)), np.ones((count, 4), np.int32), valid)


def test_each_image_gets_its_own_detections_though_some_are_skipped():
    images = np.zeros((3, 2, 2, 3), np.float32)
    images[:, 0, 0, 0] = (2, 0, 4)
    batches = [
        (images[:2], np.array([0, 3]), np.array([[10, 20], [30, 40]])),
        (images[2:], np.array([4]), np.array([[5, 6]])),
    ]
    notes = Notes()
    assert infer(predict, batches, notes, 5) == 3
    assert [(row[0], row[1], len(row[2]), row[3].tolist(), len(row[4])) for row in notes.rows[:-1]] == [
        (0, (10, 20), 2, [4, 3], 2),
        (3, (30, 40), 0, [], 0),
        (4, (5, 6), 4, [4, 3, 2, 1], 4),
    ]
    assert notes.rows[-1] == "closed"

from collections import namedtuple

import numpy as np

from ssd.evaluation.run import evaluate_loader

Detections = namedtuple("Detections", "boxes scores classes valid")


class TwoBatches:
    """Three images in batches of two; the last one has no object."""

    samples = 3
    steps = 2

    def epoch(self, number):
        assert number == 0
        for indices in ([0, 1], [2]):
            count = len(indices)
            classes = np.zeros((count, 16), np.int32)
            boxes = np.zeros((count, 16, 4), np.float32)
            for row, index in enumerate(indices):
                classes[row, : 2 - index] = index + 1
                boxes[row, : 2 - index] = (0.1, 0.2, 0.3, 0.4)
            truth = {
                "boxes": boxes,
                "classes": classes,
                "difficult": classes == 2,
                "index": np.array(indices, np.int32),
                "size": np.array([[10 + index, 20 + index] for index in indices], np.int32),
            }
            yield np.full((count, 8, 8, 3), float(indices[0]), np.float32), truth

    def names(self, indices):
        return [f"{index}.png" for index in indices]


def predict(images):
    count = len(images)
    return Detections(
        np.tile(np.float32([[0, 0, 1, 1], [0, 0, 0.5, 0.5], [0, 0, 0, 0]]), (count, 1, 1)),
        np.tile(np.float32([0.9, 0.5, 0.0]), (count, 1)),
        np.tile(np.int32([2, 1, 0]), (count, 1)),
        np.full(count, 2, np.int32),
    )


def test_rows_come_in_order_without_their_padding():
    results = evaluate_loader(predict, TwoBatches(), label="validation")
    assert [result.name for result in results] == ["0.png", "1.png", "2.png"]
    assert [result.index for result in results] == [0, 1, 2]
    assert [result.size for result in results] == [(10, 20), (11, 21), (12, 22)]
    assert [len(result.truth_boxes) for result in results] == [2, 1, 0]
    assert [result.truth_difficult.tolist() for result in results] == [[False, False], [True], []]
    for result in results:
        assert result.boxes.shape == (2, 4)
        assert result.classes.tolist() == [2, 1]
        assert result.scores.tolist() == [np.float32(0.9), 0.5]

"""Runs a detector over a loader: what `evaluate` and the validation during training measure."""

from collections.abc import Callable

import numpy as np

from ssd.console import progress
from ssd.evaluation.results import ImageResult


def evaluate_loader(predict: Callable, loader, *, label: str) -> list[ImageResult]:
    """Predicts every image of `loader`, in its order, with a progress bar named `label`.

    Args:
        predict: images float32 `(B, H, W, C)` to `ssd.boxes.nms.Detections`.
        loader: as made by `ssd.data.pipeline.evaluation_loader`.
    """
    results: list[ImageResult] = []
    with progress(total=loader.samples, label=label) as bar:
        for images, truth in loader.epoch(0):
            detections = predict(np.asarray(images))
            batch = batch_results(detections, {key: np.asarray(value) for key, value in truth.items()}, loader.names)
            results.extend(batch)
            bar.update(len(batch))
    return results


def batch_results(
    detections, truth: dict[str, np.ndarray], names: Callable[[list[int]], list[str]]
) -> list[ImageResult]:
    """The rows of one batch, padding taken off."""
    boxes, scores, classes, valid = (
        np.asarray(part) for part in (detections.boxes, detections.scores, detections.classes, detections.valid)
    )
    indices = truth["index"].tolist()
    results = []
    for row, (index, name) in enumerate(zip(indices, names(indices), strict=True)):
        count = int(valid[row])
        real = truth["classes"][row] > 0
        results.append(
            ImageResult(
                name=name,
                size=(int(truth["size"][row, 0]), int(truth["size"][row, 1])),
                boxes=boxes[row, :count].astype(np.float32),
                scores=scores[row, :count].astype(np.float32),
                classes=classes[row, :count].astype(np.int32),
                truth_boxes=truth["boxes"][row][real],
                truth_classes=truth["classes"][row][real],
                truth_difficult=truth["difficult"][row][real],
                index=index,
            )
        )
    return results

"""Which detection found which object, by the rules of the PASCAL VOC development kit (Everingham et al., 2010).

A detection looks only at the object of its class that it overlaps most. Below the IoU threshold it is false. Where that
object is difficult, the detection does not count. Where a detection with a higher score has that object already, it is
false, even if it overlaps another object enough. So the object a detection wants does not depend on the others, and the
winner of each object is simply the first in descending order of score: no loop over detections is needed.
"""

from dataclasses import dataclass

import numpy as np

from ssd.evaluation.results import ImageResult


@dataclass(frozen=True)
class Matches:
    """All detections and all objects of a set of images, in image order.

    `counted` detections are true or false ones; those on difficult objects are neither.
    """

    image: np.ndarray  # int64 (D,) position in the results
    classes: np.ndarray  # int32 (D,)
    scores: np.ndarray  # float32 (D,)
    overlap: np.ndarray  # float64 (D,) largest IoU with an object of the class
    true: np.ndarray  # bool (D,)
    counted: np.ndarray  # bool (D,)
    truth_image: np.ndarray  # int64 (T,)
    truth_classes: np.ndarray  # int32 (T,)
    truth_difficult: np.ndarray  # bool (T,)
    found_score: np.ndarray  # float64 (T,) score of the detection that found the object, -inf where none did


def match_voc(results: list[ImageResult], iou: float) -> Matches:
    """Matches detections with objects at an IoU of at least `iou`."""
    truths = np.array([len(result.truth_boxes) for result in results], np.int64)
    first_truth = np.concatenate([[0], np.cumsum(truths)])
    wanted, overlap = [], []
    for result, start in zip(results, first_truth, strict=False):
        table = iou_table(result.boxes, result.truth_boxes)
        table = np.where(result.classes[:, None] == result.truth_classes[None, :], table, -1.0)
        if table.shape[1]:
            best = table.argmax(axis=1)  # the first of equals, as the development kit has it
            wanted.append(start + best)
            overlap.append(table[np.arange(len(best)), best])
        else:
            wanted.append(np.full(len(table), -1, np.int64))
            overlap.append(np.full(len(table), -1.0))
    wanted, overlap = _joined(wanted, np.int64), _joined(overlap, np.float64)
    scores = _joined([result.scores for result in results], np.float32)
    difficult = _joined([result.truth_difficult for result in results], bool)

    near = overlap >= iou
    ignored = np.zeros(len(near), bool)
    ignored[near] = difficult[wanted[near]]
    order = np.argsort(-scores, kind="stable")
    order = order[near[order] & ~ignored[order]]
    objects, first = np.unique(wanted[order], return_index=True)
    winners = order[first]
    true = np.zeros(len(near), bool)
    true[winners] = True
    found_score = np.full(len(difficult), -np.inf)
    found_score[objects] = scores[winners]
    return Matches(
        image=np.repeat(np.arange(len(results)), [len(result.scores) for result in results]),
        classes=_joined([result.classes for result in results], np.int32),
        scores=scores,
        overlap=overlap,
        true=true,
        counted=~ignored,
        truth_image=np.repeat(np.arange(len(results)), truths),
        truth_classes=_joined([result.truth_classes for result in results], np.int32),
        truth_difficult=difficult,
        found_score=found_score,
    )


def iou_table(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """IoU of each box of `first` (D, 4) with each of `second` (T, 4), float64 (D, T); 0 for boxes without area."""
    a = np.asarray(first, np.float64).reshape(-1, 1, 4)
    b = np.asarray(second, np.float64).reshape(1, -1, 4)
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = np.prod(np.maximum(sides, 0.0), axis=-1)
    union = np.prod(a[..., 2:] - a[..., :2], axis=-1) + np.prod(b[..., 2:] - b[..., :2], axis=-1) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def _joined(parts: list[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype), *parts]).astype(dtype)

"""Average precision as PASCAL VOC defines it, per class and in the mean."""

from dataclasses import dataclass

import numpy as np

from ssd.evaluation.matching import Matches, match_voc
from ssd.evaluation.results import ImageResult

MODES = ("SAMPLE", "INTEGRATE")


@dataclass(frozen=True)
class OperatingPoint:
    """What a score threshold gives: detections that score `threshold` or more are kept."""

    threshold: float
    precision: float
    recall: float
    f1: float
    true_positives: int
    false_positives: int
    missed: int


@dataclass(frozen=True)
class ClassReport:
    """One class. `ap` and `best` are None where the validation data have no object of it."""

    name: str
    objects: int  # without the difficult ones
    difficult: int
    detections: int  # true and false ones; those on difficult objects do not count
    ap: float | None
    precision: np.ndarray  # float64 (detections,): of the detections down to each one, by descending score
    recall: np.ndarray  # float64 (detections,)
    scores: np.ndarray  # float32 (detections,), descending
    best: OperatingPoint | None  # where F1 is largest


@dataclass(frozen=True)
class Report:
    """All classes, in index order. `mean` leaves out the classes without objects; None where no class has any."""

    classes: tuple[ClassReport, ...]
    mean: float | None
    iou: float
    mode: str
    images: int

    def thresholds(self) -> np.ndarray:
        """Best-F1 score threshold per class, float64 (K,); infinite where there is none."""
        return np.array([row.best.threshold if row.best else np.inf for row in self.classes])


def voc_report(
    results: list[ImageResult], classes: tuple[str, ...], iou: float, mode: str, matches: Matches | None = None
) -> Report:
    """AP of every class at an IoU of at least `iou`.

    Args:
        classes: names in index order; the first is class 1.
        mode: "SAMPLE", the mean of 11 points (VOC 2007), or "INTEGRATE", the area under the curve (VOC 2010 on).
        matches: of `match_voc(results, iou)`, where the caller has them already.
    """
    if mode not in MODES:
        raise ValueError(f"mode {mode!r} is none of {MODES}")
    matches = match_voc(results, iou) if matches is None else matches
    rows = tuple(_class_report(matches, index, name, mode) for index, name in enumerate(classes, start=1))
    present = [row.ap for row in rows if row.ap is not None]
    return Report(rows, float(np.mean(present)) if present else None, iou, mode, len(results))


def average_precision(true: np.ndarray, objects: int, mode: str) -> float:
    """AP of one class.

    Args:
        true: bool (D,), descending score: whether the detection found an object.
        objects: how many there were to find, at least 1.
    """
    found = np.cumsum(true)
    precision = found / np.arange(1, len(found) + 1)
    # The best precision at this recall or a higher one; "higher recall" is "further down the list".
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    if mode == "SAMPLE":
        # recall >= step / 10 in whole numbers: 3/10 must reach the point 0.3, whatever floats say.
        return float(sum(_precision_from(envelope, found * 10 >= step * objects) for step in range(11)) / 11)
    # Recall grows by 1/objects at each true detection and nowhere else.
    return float(envelope[np.asarray(true, bool)].sum() / objects)


def _precision_from(envelope: np.ndarray, reached: np.ndarray) -> float:
    return envelope[reached.argmax()] if reached.any() else 0.0


def _class_report(matches: Matches, index: int, name: str, mode: str) -> ClassReport:
    of_class = matches.truth_classes == index
    objects = int((of_class & ~matches.truth_difficult).sum())
    detections = np.flatnonzero((matches.classes == index) & matches.counted)
    detections = detections[np.argsort(-matches.scores[detections], kind="stable")]
    true, scores = matches.true[detections], matches.scores[detections]
    found = np.cumsum(true)
    return ClassReport(
        name=name,
        objects=objects,
        difficult=int(of_class.sum()) - objects,
        detections=len(detections),
        ap=average_precision(true, objects, mode) if objects else None,
        precision=found / np.arange(1, len(found) + 1),
        recall=found / max(objects, 1),
        scores=scores,
        best=_best_point(found, scores, objects) if objects else None,
    )


def _best_point(found: np.ndarray, scores: np.ndarray, objects: int) -> OperatingPoint | None:
    """The threshold with the largest F1 = 2 TP / (detections + objects); the highest one of equals."""
    if not len(found):
        return OperatingPoint(1.0, 0.0, 0.0, 0.0, 0, 0, objects)
    # A threshold cannot part detections of equal score: only the last of each counts.
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))
    kept = last + 1
    f1 = 2.0 * found[last] / (kept + objects)
    at = int(f1.argmax())
    true, count = int(found[last[at]]), int(kept[at])
    return OperatingPoint(
        threshold=float(scores[last[at]]),
        precision=true / count,
        recall=true / objects,
        f1=float(f1[at]),
        true_positives=true,
        false_positives=count - true,
        missed=objects - true,
    )

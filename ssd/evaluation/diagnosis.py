"""Why an evaluation measured nothing: the probable causes, the likeliest first, with what the data say about each."""

import numpy as np

from ssd.evaluation.average_precision import Report
from ssd.evaluation.matching import Matches, iou_table
from ssd.evaluation.results import ImageResult
from ssd.spec.config import Experiment


def diagnose(results: list[ImageResult], report: Report, matches: Matches, spec: Experiment) -> list[str]:
    """Lines for the terminal: what is wrong, then numbered causes. Empty where something was found."""
    if not sum(row.objects for row in report.classes):
        return _numbered(*_no_objects(results, report, spec))
    if not len(matches.scores):
        return _numbered(*_no_detections(spec))
    if not matches.true.any():
        return _numbered(*_none_right(results, matches, report))
    return []


def _no_objects(results: list[ImageResult], report: Report, spec: Experiment) -> tuple[str, list[str]]:
    difficult = sum(row.difficult for row in report.classes)
    title = f"the {len(results)} validation images have no object of the classes {', '.join(report_names(report))}"
    causes = []
    if difficult:
        causes.append(f"all {difficult} objects are marked difficult (occluded, or crowds), and those do not count")
    names = ", ".join(sorted({source for source, _ in spec.dataset.class_mapping}))
    causes += [
        f"the labels use other names than target_class_mapping has ({names}): look at one label file",
        "the label folder belongs to other images, or its files are empty: check label_directory_path",
        "the records were converted with another class list: convert them again with this target_class_mapping",
    ]
    return title, causes


def _no_detections(spec: Experiment) -> tuple[str, list[str]]:
    threshold = spec.nms.confidence_threshold
    causes = [
        "the model has hardly been trained: look at its loss curve, train longer",
        f"nms_config.confidence_threshold is {threshold:g}: 0.01 keeps weak detections too",
        "the images are not prepared as in training: same output_channel and image_mean?",
    ]
    if threshold > 0.05:  # a value made for showing results, not for measuring
        causes[0], causes[1] = causes[1], causes[0]
    return "the model detects nothing in any image", causes


def _none_right(results: list[ImageResult], matches: Matches, report: Report) -> tuple[str, list[str]]:
    title = f"none of the {len(matches.scores)} detections is right at IoU {report.iou:g}"
    other_class, best = _look_closer(results, report.iou)
    total = sum(len(result.truth_boxes) for result in results)
    causes = []
    if other_class > total / 4:
        causes.append(
            f"{other_class} of {total} objects are found under a wrong class: the model's class order differs from "
            "this spec's target_class_mapping (classes are numbered in alphabetical order)"
        )
    causes.append(
        f"the model has hardly been trained: the objects' best detections overlap them by {best:.2f} (median)"
    )
    causes += [
        "scales, aspect_ratios, steps or variances of the spec differ from those of training",
        "the boxes of the labels are not in pixels of these images (resized copies?)",
    ]
    return title, causes


def _look_closer(results: list[ImageResult], iou: float) -> tuple[int, float]:
    """Objects that a detection of another class covers, and the median over objects of the best IoU of any class."""
    best = []
    for result in results:
        table = iou_table(result.boxes, result.truth_boxes)
        best.append(table.max(axis=0) if len(table) else np.zeros(table.shape[1]))
    overlaps = np.concatenate(best)
    return int((overlaps >= iou).sum()), float(np.median(overlaps)) if len(overlaps) else 0.0


def report_names(report: Report) -> list[str]:
    """The class names, shortened to what fits in a line."""
    names = [row.name for row in report.classes]
    return names if len(names) <= 12 else [*names[:12], f"and {len(names) - 12} more"]


def _numbered(title: str, causes: list[str]) -> list[str]:
    return [f"{title}. Probable causes:", *(f"  {number}. {cause}" for number, cause in enumerate(causes, start=1))]

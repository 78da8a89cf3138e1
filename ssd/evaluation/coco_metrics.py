"""COCO's twelve numbers, by pycocotools (https://cocodataset.org/#detection-eval)."""

import contextlib
import io

import numpy as np

from ssd.evaluation.results import ImageResult, to_pixels

# In the order in which COCOeval.stats has them.
NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
ALL_AREAS, HUNDRED = 0, 2  # positions in COCOeval's tables: objects of any size, 100 detections per image
IOU_50 = 0


def coco_report(results: list[ImageResult], classes: tuple[str, ...]) -> dict:
    """The twelve numbers, and AP and AP50 per class under "classes"; None where there was no object to find.

    Boxes and areas are in pixels of the original images. Difficult objects are marked as crowds: they are not missed,
    and detections on them are not false.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    # pycocotools prints its progress and its table; the numbers are ours to show.
    with contextlib.redirect_stdout(io.StringIO()):
        truth = _coco(COCO(), results, classes, _truth_annotations(results))
        detections = _coco(COCO(), results, classes, _detection_annotations(results))
        evaluation = COCOeval(truth, detections, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    report = {name: _known(value) for name, value in zip(NAMES, evaluation.stats, strict=True)}
    precision = evaluation.eval["precision"]  # (IoU, recall, class, area, detections), -1 where there is nothing
    report["classes"] = {
        name: {
            "AP": _mean(precision[:, :, index, ALL_AREAS, HUNDRED]),
            "AP50": _mean(precision[IOU_50, :, index, ALL_AREAS, HUNDRED]),
        }
        for index, name in enumerate(classes)
    }
    return report


def _coco(coco, results: list[ImageResult], classes: tuple[str, ...], annotations: list[dict]):
    coco.dataset = {
        "info": {},
        "images": [
            {"id": number, "height": int(result.size[0]), "width": int(result.size[1])}
            for number, result in enumerate(results)
        ],
        "categories": [{"id": index, "name": name} for index, name in enumerate(classes, start=1)],
        "annotations": annotations,
    }
    coco.createIndex()
    return coco


def _truth_annotations(results: list[ImageResult]) -> list[dict]:
    annotations = []
    for number, result in enumerate(results):
        for box, index, difficult in zip(
            _corner_and_size(result.truth_boxes, result.size),
            result.truth_classes.tolist(),
            result.truth_difficult.tolist(),
            strict=True,
        ):
            annotations.append(
                {
                    # pycocotools takes the id 0 for "not matched".
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": index,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": int(difficult),
                }
            )
    return annotations


def _detection_annotations(results: list[ImageResult]) -> list[dict]:
    annotations = []
    for number, result in enumerate(results):
        boxes = _corner_and_size(result.boxes, result.size)
        for box, index, score in zip(boxes, result.classes.tolist(), result.scores.tolist(), strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": index,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "score": score,
                    "iscrowd": 0,
                }
            )
    return annotations


def _corner_and_size(boxes: np.ndarray, size: tuple[int, int]) -> list[list[float]]:
    """Relative corners as COCO's x, y, width, height in pixels."""
    pixels = to_pixels(boxes, size)
    return np.concatenate([pixels[:, :2], pixels[:, 2:] - pixels[:, :2]], axis=1).tolist()


def _known(value: float) -> float | None:
    return None if value < 0 else float(value)


def _mean(table: np.ndarray) -> float | None:
    known = table[table > -1]
    return float(known.mean()) if known.size else None

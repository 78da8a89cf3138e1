"""The evaluation as a table for the terminal and as JSON for programs."""

from ssd.evaluation.average_precision import ClassReport, Report

HEADER = ("class", "objects", "detections", "AP", "precision", "recall", "F1", "at score", "TP", "FP", "missed")


def number(value: float | None, digits: int = 4) -> str:
    """A metric as text; `n/a` where there was nothing to measure."""
    return "n/a" if value is None else f"{value:.{digits}f}"


def table(report: Report) -> str:
    """One line per class, in index order; precision to missed are at the score with the best F1."""
    rows = [HEADER, *(_row(row) for row in report.classes)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    lines = ["  ".join(_aligned(row, widths)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * max(len(line) for line in lines), *lines[1:]])


def mean_line(report: Report) -> str:
    """`mAP 0.8123` and what it is the mean of."""
    present = sum(row.ap is not None for row in report.classes)
    absent = len(report.classes) - present
    text = f"mAP {number(report.mean)}  ({report.mode}, IoU {report.iou:g}, {report.images} images"
    if absent:
        text += f"; {absent} of {len(report.classes)} classes without objects left out"
    return text + ")"


def coco_lines(coco: dict) -> str:
    """The twelve numbers in four lines."""
    groups = (
        ("COCO AP 0.50:0.95", ("AP", "AP50", "AP75")),
        ("by size of object", ("APs", "APm", "APl")),
        ("recall, at most n", ("AR1", "AR10", "AR100")),
        ("by size of object", ("ARs", "ARm", "ARl")),
    )
    return "\n".join(
        f"{title}  " + "  ".join(f"{name:<5} {number(coco[name]):<6}" for name in names).rstrip()
        for title, names in groups
    )


def as_json(report: Report, coco: dict | None) -> dict:
    """`metrics.json`, without the facts of the run. Absent classes have null, never -1 or 0."""
    classes = {}
    for row in report.classes:
        best = row.best
        classes[row.name] = {
            "AP": row.ap,
            "objects": row.objects,
            "difficult_objects": row.difficult,
            "detections": row.detections,
            "precision": best and best.precision,
            "recall": best and best.recall,
            "F1": best and best.f1,
            "score_threshold": best and best.threshold,
            "true_positives": best and best.true_positives,
            "false_positives": best and best.false_positives,
            "missed": best and best.missed,
            "coco_AP": coco and coco["classes"][row.name]["AP"],
            "coco_AP50": coco and coco["classes"][row.name]["AP50"],
        }
    return {
        "mAP": report.mean,
        "average_precision_mode": report.mode,
        "matching_iou_threshold": report.iou,
        "images": report.images,
        "classes": classes,
        "coco": coco and {name: value for name, value in coco.items() if name != "classes"},
    }


def _row(row: ClassReport) -> tuple[str, ...]:
    counts = (row.name, str(row.objects), str(row.detections))
    if row.best is None:
        return (*counts, "n/a (0 objects)", *[""] * 7)
    best = row.best
    rates = (number(value, 3) for value in (best.precision, best.recall, best.f1, best.threshold))
    return (*counts, number(row.ap), *rates, str(best.true_positives), str(best.false_positives), str(best.missed))


def _aligned(row: tuple[str, ...], widths: list[int]) -> list[str]:
    return [row[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True))]

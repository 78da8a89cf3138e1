"""The dataset audit: what there is to learn from, how evenly, and what looks wrong."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ssd.data.audit import LabelProblem
from ssd.data.sources import ImageIndex
from ssd.inspection.coverage import Size
from ssd.inspection.duplicates import Duplicates, same_labels
from ssd.inspection.labels import suspicious_labels
from ssd.inspection.sizes import SIZES, pixel_sizes, size_class
from ssd.tables import first, indented, size, table

SHOWN = 5  # findings of a kind by name; the CSV has all
# From this factor between the classes with most and with fewest objects on, it is said.
UNEVEN = 5.0


@dataclass(frozen=True)
class ClassCounts:
    """Objects of one class, or of all."""

    name: str
    objects: int
    images: int
    original: tuple[int, int, int]  # small, medium, large by their size in the image as it is
    network: tuple[int, int, int]  # the same at the network's input
    median: tuple[float, float] | None  # width, height, px at the network's input


@dataclass(frozen=True)
class DataReport:
    """One data set. `findings` hold every suspicious label and every image that is there again."""

    purpose: str  # "training" or "validation"
    images: int
    empty: int  # images without objects
    left_out: int  # difficult objects that training goes without
    classes: tuple[ClassCounts, ...]
    total: ClassCounts
    findings: tuple[LabelProblem, ...]


def inspect_data(
    index: ImageIndex, purpose: str, classes: Sequence[str], image_size: Size, repeats: Sequence[LabelProblem]
) -> DataReport:
    """Counts an index and looks through its labels; `repeats` are findings about its images as such.

    Args:
        image_size: height, width of the network input, px.
    """
    rows = [_counts(index, image_size, name, index.classes == number) for number, name in enumerate(classes, start=1)]
    return DataReport(
        purpose=purpose,
        images=len(index),
        empty=int((index.counts == 0).sum()),
        left_out=int(index.left_out.sum()),
        classes=tuple(rows),
        total=_counts(index, image_size, "all", np.ones(len(index.classes), bool)),
        findings=(*suspicious_labels(index, classes, image_size), *repeats),
    )


def _counts(index: ImageIndex, image_size: Size, name: str, mask: np.ndarray) -> ClassCounts:
    images = np.repeat(np.arange(len(index)), index.counts)[mask]
    boxes = index.boxes[mask]
    at_network, original = pixel_sizes(boxes, image_size), pixel_sizes(boxes, index.sizes[images])
    by_size = [np.bincount(size_class(*sizes.T), minlength=len(SIZES)).tolist() for sizes in (original, at_network)]
    median = tuple(np.median(at_network, axis=0).tolist()) if len(boxes) else None
    return ClassCounts(name, len(boxes), len(np.unique(images)), *map(tuple, by_size), median)


def repeated_images(
    found: Duplicates, training: ImageIndex, validation: ImageIndex | None
) -> tuple[list[LabelProblem], list[LabelProblem]]:
    """Duplicates as findings of the training and of the validation data, each naming both images."""
    ours = []
    for original, *copies in found.within:
        for copy in copies:
            if training.names[copy] == training.names[original]:
                kind, detail = "named twice", "the spec's sources have this image more than once"
            else:
                labels = "" if same_labels(training, original, training, copy) else ", with other labels"
                kind, detail = "duplicate", f"the same file as {training.names[original]}{labels}"
            ours.append(LabelProblem(training.names[copy], None, kind, detail, "nothing"))
    theirs = []
    for originals, copies in found.between:
        for copy in copies:
            labels = "" if same_labels(training, originals[0], validation, copy) else ", with other labels"
            detail = f"the same file as {training.names[originals[0]]} of the training data{labels}"
            theirs.append(LabelProblem(validation.names[copy], None, "in the training data too", detail, "nothing"))
    return ours, theirs


def text(report: DataReport, csv_name: str) -> str:
    """The report for the terminal."""
    facts = [f"{report.images} images", f"{report.empty} without objects", f"{report.total.objects} objects"]
    if report.left_out:
        facts.append(f"{report.left_out} difficult objects left out")
    lines = [f"{report.purpose.capitalize()} data: {', '.join(facts)}"]
    rows = []
    for row in (*report.classes, report.total):
        share = f"{row.objects / max(report.total.objects, 1):.1%}"
        median = size(*row.median) if row.median else "-"
        by_size = [" / ".join(map(str, counts)) for counts in (row.original, row.network)]
        rows.append((row.name, str(row.objects), share, str(row.images), *by_size, median))
    header = ("class", "objects", "share", "images", "s / m / l in the image", "s / m / l in the network", "median px")
    lines += [indented(table(header, rows))]
    lines.append(
        "  s, m, l: areas under 32², under 96², from 96² px on; median px: width x height at the network's input"
    )
    lines += [f"  {line}" for line in _balance(report)]
    if not report.findings:
        return "\n".join([*lines, "  no suspicious labels"])
    kinds = Counter(problem.kind for problem in report.findings)
    for kind, number in kinds.most_common():
        files = len({problem.file for problem in report.findings if problem.kind == kind})
        lines.append(f"  {number} x {kind}, in {files} image{'s' * (files != 1)}:")
        shown = [f"{problem.file}: {problem.detail}" for problem in report.findings if problem.kind == kind]
        lines += [f"    {line}" for line in first(shown, SHOWN, csv_name)]
    return "\n".join(lines)


def _balance(report: DataReport) -> list[str]:
    """Lines about classes that have no objects, or far fewer than others."""
    absent = [row.name for row in report.classes if not row.objects]
    present = sorted((row for row in report.classes if row.objects), key=lambda row: row.objects)
    lines = []
    if absent:
        effect = "nothing to learn from" if report.purpose == "training" else "no AP for them"
        lines.append(f"no objects of {', '.join(absent)}: {effect}")
    if len(present) > 1 and present[-1].objects >= UNEVEN * present[0].objects:
        factor = present[-1].objects / present[0].objects
        lines.append(f"uneven: {present[-1].name} has {factor:.1f} times as many objects as {present[0].name}")
    return lines


def as_json(report: DataReport) -> dict:
    """What the text says, for programs."""

    def row(counts: ClassCounts) -> dict:
        return {
            "objects": counts.objects,
            "images": counts.images,
            "original_size": dict(zip(SIZES, counts.original, strict=True)),
            "network_size": dict(zip(SIZES, counts.network, strict=True)),
            "median_network_px": counts.median,
        }

    return {
        "images": report.images,
        "without_objects": report.empty,
        "difficult_left_out": report.left_out,
        "objects": row(report.total),
        "classes": {counts.name: row(counts) for counts in report.classes},
        "findings": dict(Counter(problem.kind for problem in report.findings)),
    }

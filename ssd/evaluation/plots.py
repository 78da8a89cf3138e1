"""Precision-recall curves as a PNG file."""

import os

import numpy as np

from ssd.evaluation.average_precision import Report
from ssd.files import whole_file
from ssd.visualize import class_color

LEGEND_LINES = 25  # of more classes, the first ones are named


def pr_curve(report: Report, path: str | os.PathLike) -> None:
    """Writes one line per class that has objects: SAMPLE as measured, INTEGRATE the envelope whose area is the AP."""
    # The object interface: pyplot would start a window system, and keep every figure.
    from matplotlib.figure import Figure

    rows = [(index, row) for index, row in enumerate(report.classes, start=1) if row.ap is not None]
    figure = Figure(figsize=(8, 6), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    for index, row in rows:
        recall, precision = curve(row.precision, row.recall, report.mode)
        color = tuple(value / 255 for value in class_color(index))
        text = f"{row.name}: AP {row.ap:.3f}, {row.objects} objects, {row.detections} detections"
        axes.plot(recall, precision, color=color, linewidth=1.8, label=text if index <= LEGEND_LINES else None)
        if row.best and row.best.f1 > 0:
            axes.plot(row.best.recall, row.best.precision, "o", color=color, markersize=5)
    axes.set(
        xlabel="Recall",
        ylabel="Precision",
        xlim=(0, 1.02),
        ylim=(0, 1.02),
        title=f"Precision-Recall curve at IoU {report.iou:g}",
    )
    axes.grid(alpha=0.3)
    absent = [row.name for row in report.classes if row.ap is None]
    if absent:
        axes.plot([], [], " ", label=f"no objects: {', '.join(absent[:5])}{', …' if len(absent) > 5 else ''}")
    if rows:
        mean = f"mAP {report.mean:.3f} ({report.mode}); dots: best F1"
        axes.legend(title=mean, fontsize=8, title_fontsize=8, loc="lower left", framealpha=0.85)
    else:
        axes.text(0.5, 0.5, "no objects to find", ha="center", va="center")
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png")


def curve(precision: np.ndarray, recall: np.ndarray, mode: str) -> tuple[np.ndarray, np.ndarray]:
    """Recall and precision to plot: raw points for SAMPLE, the steps of the falling envelope for INTEGRATE."""
    if not len(precision):
        return np.zeros(1), np.zeros(1)
    if mode == "SAMPLE":
        return recall, precision
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    # Corner points: precision holds from the last recall up to this one, then falls; to 0 after the last.
    rises = np.flatnonzero(np.diff(recall, prepend=0.0) > 0)
    if not len(rises):
        return np.zeros(1), np.zeros(1)
    recall, envelope = recall[rises], envelope[rises]
    return np.repeat(np.append(0.0, recall), 2)[1:], np.append(np.repeat(envelope, 2), 0.0)

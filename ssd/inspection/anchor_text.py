"""The anchor report as a person reads it at the terminal."""

import numpy as np

from ssd.inspection.anchor_report import RECALL_AT, AnchorReport, Coverage, class_mean, numbers, spec_text, uncovered
from ssd.inspection.sizes import pixel_sizes
from ssd.inspection.suggestion import FEWEST_BOXES
from ssd.tables import first, indented, rate, size, table

SHOWN = 10
# Under this mean IoU of anchors that have every box's own size, the grid is too coarse for a class.
LOW_LIMIT = 0.75


def anchor_text(report: AnchorReport, csv_name: str) -> str:
    """The report for the terminal."""
    height, width = report.image_size
    lines = [f"Anchors and training boxes, both at {width}x{height} (the plain resize, without random crops)"]
    lines += [indented(_group_table(report)), "", indented(_map_table(report))]
    missed = uncovered(report)
    if missed:
        lines += ["", f"  {len(missed)} boxes overlap no anchor by {RECALL_AT:g}, the worst:"]
        shown = [f"{name}: {label} {size(w, h)} px, IoU {iou:.3f}" for name, label, w, h, iou in missed]
        lines += [f"    {line}" for line in first(shown, SHOWN, csv_name)]
    else:
        lines += ["", f"  every box overlaps some anchor by {RECALL_AT:g} or more"]
    lines += [f"  {line}" for line in [*_unused(report.present), *_too_small(report)]]
    return "\n".join([*lines, "", *_verdict(report)])


def _group_table(report: AnchorReport) -> str:
    threshold = report.present.network.pos_iou_thresh
    kinds = ["recall_50"] + (["recall_pos"] if threshold != RECALL_AT else []) + ["mean_iou"]
    titles = {"recall_50": f"recall {RECALL_AT:g}", "recall_pos": f"recall {threshold:g}", "mean_iou": "mean IoU"}
    header = ["boxes", "objects", *(titles[kind] for kind in kinds)]
    header += [f"-> {titles[kind]}" for kind in kinds] if report.suggested else []
    rows = []
    for name, row in numbers(report).items():
        cells = [name, str(row["objects"]), *(rate(row["present"][kind]) for kind in kinds)]
        cells += [rate(row["suggested"][kind]) for kind in kinds] if report.suggested else []
        rows.append([*cells, rate(row["grid_limit"])])
    notes = "recall: boxes that some anchor overlaps that well; mean IoU: with the best anchor"
    notes += "; ->: with the suggestion below" if report.suggested else ""
    notes += "\nlimit: mean IoU if every cell had an anchor of the box's own size; only a larger input raises it"
    return table([*header, "limit"], rows) + "\n" + notes


def _map_table(report: AnchorReport) -> str:
    height, width = report.image_size
    rows = []
    for index, (best, enough) in enumerate(report.present.by_map(len(report.feature_maps))):
        cells = report.feature_maps[index]
        shapes = [shape for shape in report.present.shapes if shape.map == index]
        rows.append(
            (
                str(index),
                f"{cells[1]}x{cells[0]}",
                f"{size(width / cells[1], height / cells[0])}",
                str(best),
                str(enough),
                ", ".join(size(shape.width, shape.height) for shape in shapes),
            )
        )
    header = ("map", "cells", "every px", "best for", "positive for", "anchors, px")
    return table(header, rows) + "\nbest for, positive for: boxes, out of " + str(len(report.training.boxes))


def _unused(coverage: Coverage) -> list[str]:
    """Lines about kinds of anchors that are the best of no box and overlap none enough to learn it."""
    unused = [shape for shape, used in zip(coverage.shapes, coverage.used, strict=True) if not used]
    lines = [f"{len(unused)} of {len(coverage.shapes)} kinds of anchors are never used:"] if unused else []
    for index in sorted({shape.map for shape in unused}):
        kinds = [f"{shape.name} ({size(shape.width, shape.height)} px)" for shape in unused if shape.map == index]
        lines.append(f"  map {index}, ratios {', '.join(kinds)}")
    return lines


def _too_small(report: AnchorReport) -> list[str]:
    """Lines about classes that no choice of anchors can cover well."""
    lines = []
    for index, name in enumerate(report.classes, start=1):
        mine = report.training.classes == index
        if mine.any() and (limit := report.limit[mine].mean()) < LOW_LIMIT:
            sizes = np.median(pixel_sizes(report.training.boxes[mine], report.image_size), axis=0)
            lines += [
                f"{name}: {size(*sizes)} px is small for cells this far apart; no anchors bring the mean IoU over "
                f"{limit:.2f},",
                "  only a larger network input does",
            ]
    return lines


def _verdict(report: AnchorReport) -> list[str]:
    if len(report.training.boxes) < FEWEST_BOXES:
        return [f"  {len(report.training.boxes)} boxes are too few to suggest other anchors."]
    if report.suggested is None:
        return ["  The present scales and aspect ratios are as good as the best that was found for as many anchors."]
    lines = ["  Suggested, for as many anchors as now; in ssd_config (dssd_config) in place of scales, min_scale,"]
    lines += ["  max_scale, aspect_ratios and aspect_ratios_global:", ""]
    lines += [f"    {line}" for line in spec_text(report.suggested.network).split("\n")]
    rows = [("training", report.training, report.present, report.suggested)]
    if report.held_out:
        rows.append(("validation", report.validation, *report.held_out))
    if report.zoomed:
        rows.append((f"training zoomed out {report.zoom:g} times", report.training, *report.zoomed))
    lines.append("")
    for name, index, before, after in rows:
        old, new = (class_mean(coverage, index.classes) for coverage in (before, after))
        lines.append(
            f"  {name}, mean over the classes: recall {RECALL_AT:g} {old[0]:.3f} -> {new[0]:.3f}, "
            f"mean IoU {old[1]:.3f} -> {new[1]:.3f}"
        )
    return lines

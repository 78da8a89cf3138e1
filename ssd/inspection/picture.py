"""The anchor report as a PNG: the shapes of boxes and anchors, recall by size, how good the best anchors are."""

import os

import numpy as np

from ssd.files import whole_file
from ssd.inspection.anchor_report import RECALL_AT, AnchorReport, Coverage
from ssd.inspection.sizes import pixel_sizes
from ssd.visualize import class_color

# Of more boxes, evenly chosen ones are drawn.
MOST_POINTS = 5000
LEGEND_CLASSES = 12
PRESENT, SUGGESTED = "#1f4e79", "#c0392b"
BINS = 9  # of object size


def draw(report: AnchorReport, path: str | os.PathLike) -> None:
    """Writes the PNG."""
    # The object interface: pyplot would start a window system, and keep every figure.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 7.5), dpi=110, layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=(1.25, 1))
    _shapes(figure.add_subplot(grid[:, 0]), report)
    _recall_by_size(figure.add_subplot(grid[0, 1]), report)
    _histogram(figure.add_subplot(grid[1, 1]), report)
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png")


def _coverages(report: AnchorReport) -> list[tuple[str, str, Coverage]]:
    rows = [("present anchors", PRESENT, report.present)]
    return [*rows, ("suggested", SUGGESTED, report.suggested)] if report.suggested else rows


def _shapes(axes, report: AnchorReport) -> None:
    """Width against height of every box and of every kind of anchor."""
    sizes = pixel_sizes(report.training.boxes, report.image_size)
    number = len(sizes)
    chosen = np.linspace(0, number - 1, min(number, MOST_POINTS)).astype(int)
    for index, name in enumerate(report.classes, start=1):
        mine = chosen[report.training.classes[chosen] == index]
        color = tuple(value / 255 for value in class_color(index))
        label = name if index <= LEGEND_CLASSES else None
        # Zorder by rarity: the few of a rare class must not vanish under the many of another.
        order = 2 - len(mine) / max(number, 1)
        axes.scatter(*sizes[mine].T, s=9, color=color, alpha=0.35, linewidths=0, label=label, zorder=order)
    for (name, color, coverage), marker in zip(_coverages(report), ("s", "D"), strict=False):
        points = np.array([(shape.width, shape.height) for shape in coverage.shapes])
        used = coverage.used
        style = {"marker": marker, "s": 42, "edgecolors": color, "linewidths": 1.4, "zorder": 4}
        axes.scatter(*points[used].T, facecolors=color, label=name, **style)
        if not used.all():
            axes.scatter(*points[~used].T, facecolors="none", label=f"{name}, never used", **style)
    axes.set(xscale="log", yscale="log", xlabel="width, px at the network's input", ylabel="height, px")
    everything = np.concatenate([sizes, *[[(s.width, s.height) for s in c.shapes] for *_, c in _coverages(report)]])
    low, high = everything.min() / 1.25, everything.max() * 1.25
    axes.set(xlim=(low, high), ylim=(low, high))
    axes.plot((low, high), (low, high), color="0.75", linewidth=0.8, zorder=0)
    _plain_ticks(axes.xaxis, low, high)
    _plain_ticks(axes.yaxis, low, high)
    axes.grid(alpha=0.25)
    height, width = report.image_size
    axes.set_title(f"Boxes and anchors at {width}x{height}")
    legend = axes.legend(fontsize=8, loc="upper left", framealpha=0.9)
    for handle in legend.legend_handles:
        handle.set_alpha(1.0)


def _recall_by_size(axes, report: AnchorReport) -> None:
    """Recall over the side of an object, in bins of equal factors; bars behind: how many objects."""
    sides = np.sqrt(pixel_sizes(report.training.boxes, report.image_size).prod(axis=1))
    edges = np.geomspace(sides.min() * 0.999, sides.max() * 1.001, BINS + 1)
    place = np.clip(np.searchsorted(edges, sides, side="right") - 1, 0, BINS - 1)
    counts = np.bincount(place, minlength=BINS)
    middle = np.sqrt(edges[1:] * edges[:-1])
    there = counts > 0
    behind = axes.twinx()
    behind.bar(edges[:-1], counts, width=np.diff(edges), align="edge", color="0.88", edgecolor="white", zorder=0)
    behind.set_ylabel("objects", color="0.5")
    behind.tick_params(colors="0.5")
    axes.set_zorder(behind.get_zorder() + 1)
    axes.patch.set_visible(False)
    for name, color, coverage in _coverages(report):
        threshold = max(RECALL_AT, coverage.network.pos_iou_thresh)
        for level, line in ((threshold, "-"), (0.7, ":")):
            recall = np.bincount(place, coverage.best >= level, minlength=BINS)[there] / counts[there]
            axes.plot(
                middle[there], recall, line, marker="o", markersize=3.5, color=color, label=f"{name}, IoU {level:g}"
            )
    axes.set(xscale="log", ylim=(0, 1.05), xlabel="side of the object, px (root of its area)", ylabel="recall")
    _plain_ticks(axes.xaxis, edges[0], edges[-1])
    axes.grid(alpha=0.25)
    axes.set_title("Boxes that an anchor covers, by size")
    axes.legend(fontsize=8, loc="best", framealpha=0.9)


def _histogram(axes, report: AnchorReport) -> None:
    """How many boxes have which best IoU."""
    bins = np.linspace(0, 1, 41)
    for name, color, coverage in _coverages(report):
        best = coverage.best
        label = f"{name}: mean {best.mean():.3f}, {np.mean(best < RECALL_AT):.1%} under {RECALL_AT:g}"
        axes.hist(best, bins, histtype="stepfilled", color=color, alpha=0.18)
        axes.hist(best, bins, histtype="step", color=color, linewidth=1.5, label=label)
    axes.axvline(RECALL_AT, color="0.4", linewidth=1, linestyle="--")
    axes.set(xlim=(0, 1), xlabel="best IoU with any anchor", ylabel="boxes")
    axes.grid(alpha=0.25)
    axes.set_title("Best IoU of every box")
    axes.legend(fontsize=8, loc="upper left", framealpha=0.9)


def _plain_ticks(axis, low: float, high: float) -> None:
    """10, 20, 50 instead of powers of ten."""
    from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator, StrMethodFormatter

    ticks = [step * 10.0**power for power in range(-2, 5) for step in (1, 2, 3, 5, 7)]
    inside = [tick for tick in ticks if low <= tick <= high]
    axis.set_major_locator(FixedLocator(inside if len(inside) < 12 else [t for t in inside if f"{t:e}"[0] in "125"]))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())

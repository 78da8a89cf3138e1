"""What the epochs gave: one row each, as a line at the terminal, a CSV, status.json and a picture of the curves."""

import csv
import datetime
import math
from pathlib import Path

from ssd.files import whole_file
from ssd.status import StatusLog

# Our columns, behind those of the original tool.
EXTRA = (
    "classification_loss",
    "localisation_loss",
    "regularisation_loss",
    "images_per_second",
    "data_wait",
    "seconds",
)


def columns(classes: tuple[str, ...], validated: bool) -> list[str]:
    """CSV columns: `epoch`, the original's in ASCII order, then ours."""
    theirs = ["loss", "lr"]
    if validated:
        theirs += ["mAP", "validation_loss", *(f"AP_{name}" for name in classes)]
    return ["epoch", *sorted(theirs), *EXTRA]


def write_csv(path: Path, history: list[dict], names: list[str]) -> None:
    """All rows, whole or not at all; `nan` where an epoch has no value."""
    with whole_file(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        for row in history:
            writer.writerow([_cell(row.get(name)) for name in names])


def line(row: dict, num_epochs: int, eta: float) -> str:
    """The epoch at the terminal."""
    parts = [
        f"epoch {row['epoch']}/{num_epochs}",
        f"loss {_short(row['loss'])} (cls {_short(row['classification_loss'])} loc {_short(row['localisation_loss'])}"
        f" reg {_short(row['regularisation_loss'])})",
        f"lr {row['lr']:.1e}",
        f"{row['images_per_second']:.1f} img/s",
        f"data wait {100 * row['data_wait']:.0f} %",
    ]
    if "validation_loss" in row:
        parts.append(f"mAP {'n/a' if row['mAP'] is None else format(row['mAP'], '.3f')}")
        parts.append(f"val loss {_short(row['validation_loss'])}")
    if row["epoch"] < num_epochs:
        parts.append(f"eta {clock(eta)}")
    return "  ".join(parts)


def report_status(status: StatusLog, row: dict, num_epochs: int, eta: float) -> None:
    """The lines of one epoch in status.json: numbers, null where an epoch was not evaluated."""
    graphical = {
        "loss": row["loss"],
        "learning_rate": row["lr"],
        "mean average precision": row.get("mAP"),
        "validation_loss": _finite(row.get("validation_loss")),
    }
    status.write(
        "RUNNING",
        "Training loop in progress",
        epoch=row["epoch"],
        max_epoch=num_epochs,
        time_per_epoch=str(datetime.timedelta(seconds=row["seconds"])),
        eta=str(datetime.timedelta(seconds=eta)),
        graphical=graphical,
        kpi={"mean average precision": row.get("mAP")},
    )
    if "validation_loss" in row:
        status.write(
            "RUNNING",
            "Evaluation metrics generated.",
            graphical={"validation loss": _finite(row["validation_loss"]), "mean average precision": row["mAP"]},
        )


def draw_curves(path: Path, history: list[dict], title: str) -> None:
    """PNG: losses, learning rate, mAP over the epochs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6.5), layout="constrained")
    figure.suptitle(title)
    losses, rate, accuracy = figure.subplot_mosaic([["losses", "rate"], ["losses", "accuracy"]]).values()
    for name, label in (
        ("loss", "training loss"),
        ("classification_loss", "classification"),
        ("localisation_loss", "localisation"),
        ("regularisation_loss", "regularisation"),
        ("validation_loss", "validation loss"),
    ):
        _curve(losses, history, name, label)
    losses.set(xlabel="epoch", ylabel="loss", yscale="log")
    _curve(rate, history, "lr", "learning rate")
    rate.set(xlabel="epoch", ylabel="learning rate", yscale="log")
    _curve(accuracy, history, "mAP", "mAP")
    accuracy.set(xlabel="epoch", ylabel="mAP", ylim=(0, 1))
    for axes in (losses, rate, accuracy):
        axes.grid(alpha=0.3)
    if losses.lines:
        losses.legend()
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=100, format="png")


def clock(seconds: float) -> str:
    """12:03, 1:02:03."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def _curve(axes, history: list[dict], name: str, label: str) -> None:
    points = [(row["epoch"], row[name]) for row in history if row.get(name) is not None]
    if name != "mAP":  # on logarithmic axes
        points = [point for point in points if point[1] > 0]
    if points:
        # A single epoch is a point, which a line does not show.
        axes.plot(*zip(*points, strict=True), label=label, marker="." if len(points) < 30 else None)


def _finite(value: float | None) -> float | None:
    """JSON knows neither NaN nor infinity."""
    return value if value is not None and math.isfinite(value) else None


def _cell(value):
    return "nan" if value is None else f"{value:.6g}" if isinstance(value, float) else value


def _short(value: float) -> str:
    return f"{value:.2f}" if value >= 0.1 or value == 0 else f"{value:.1g}"

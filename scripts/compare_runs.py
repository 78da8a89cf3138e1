"""Draws validation mAP over the epochs of several training runs, one panel per group.

python scripts/compare_runs.py -o curves.png cards/pretrained=runs/a cards/scratch=runs/b blood/pretrained=runs/c
"""

import argparse
import csv
import math
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def validated(folder: Path) -> tuple[list[int], list[float]]:
    """Epochs that were validated, and their mAP, from the run's CSV."""
    with open(next(folder.glob("*_training_log_*.csv")), newline="") as file:
        rows = [(int(row["epoch"]), float(row["mAP"])) for row in csv.DictReader(file)]
    rows = [row for row in rows if not math.isnan(row[1])]
    return [epoch for epoch, _ in rows], [value for _, value in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", metavar="GROUP/LABEL=FOLDER")
    parser.add_argument("-o", "--output", required=True, metavar="FILE")
    args = parser.parse_args()
    groups: dict[str, list[tuple[str, Path]]] = {}
    for run in args.runs:
        name, _, folder = run.partition("=")
        group, _, label = name.partition("/")
        groups.setdefault(group, []).append((label, Path(folder)))
    figure, panels = plt.subplots(1, len(groups), figsize=(5 * len(groups), 3.6), squeeze=False, layout="constrained")
    for panel, (group, runs) in zip(panels[0], groups.items(), strict=True):
        for label, folder in runs:
            epochs, values = validated(folder)
            panel.plot(epochs, values, marker="o", label=f"{label}: {values[-1]:.3f}")
        panel.set(title=group, xlabel="epoch", ylabel="mAP at IoU 0.5", ylim=(0, 1))
        panel.grid(alpha=0.3)
        panel.legend(loc="lower right")
    figure.savefig(args.output, dpi=110)


if __name__ == "__main__":
    main()

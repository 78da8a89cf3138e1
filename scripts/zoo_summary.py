"""The table of `make zoo`: training time and mAP of each family. Ends with 1 where one stays under the aim."""

import csv
import json
import math
import sys
from pathlib import Path

SPECS = Path(__file__).parent.parent / "specs" / "zoo"
AIM = 0.6  # mAP at IoU 0.5


def read_run(folder: Path) -> dict:
    """One training run with its evaluation."""
    with open(next(folder.glob("*_training_log_*.csv")), newline="") as file:
        rows = list(csv.DictReader(file))
    metrics = json.loads((folder / "evaluate" / "metrics.json").read_text())
    reached = [row for row in rows if float(row["mAP"]) >= AIM]  # nan where an epoch was not validated
    return {
        "network": folder.name,
        "epochs": len(rows),
        "minutes": sum(float(row["seconds"]) for row in rows) / 60,
        "images_per_second": sorted(float(row["images_per_second"]) for row in rows)[len(rows) // 2],
        "epoch_with_aim": int(reached[0]["epoch"]) if reached else None,
        "mAP": metrics["mAP"],
    }


def main(folder: Path) -> int:
    runs = [read_run(path.parent.parent) for path in sorted(folder.glob("*/evaluate/metrics.json"))]
    print(f"\n{'network':<16} {'epochs':>6} {'minutes':>8} {'img/s':>6} {f'mAP {AIM} at epoch':>16} {'mAP':>6}")
    for run in runs:
        print(
            f"{run['network']:<16} {run['epochs']:>6} {run['minutes']:>8.1f} {run['images_per_second']:>6.1f} "
            f"{run['epoch_with_aim'] or '-':>16} {run['mAP']:>6.3f}"
        )
    (folder / "zoo.json").write_text(json.dumps(runs, indent=2) + "\n")
    missing = sorted({path.stem for path in SPECS.glob("*.txt")} - {run["network"] for run in runs})
    if missing:
        print(f"no result: {', '.join(missing)}")
    short = [run["network"] for run in runs if math.isnan(run["mAP"]) or run["mAP"] < AIM]
    if short:
        print(f"under mAP {AIM}: {', '.join(short)}")
    print(f"results: {folder}")
    return 1 if short or missing else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))

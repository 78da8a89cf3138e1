#!/usr/bin/env python3
"""Compares models of one data set: mAP, parameters, multiply-adds, size, latency, as a table, JSON and picture.

    python scripts/compare_models.py -r runs/compared float=a/weights/x_best.keras pruned=b/weights/x_best.keras

evaluates each model on the validation data of its own spec (or of -e SPEC) and times the networks in turns, one image a
batch, without NMS. A quantization-aware model is not timed: what it gains, it gains as an INT8 graph or engine; name
that as well. Files count what is in them: a checkpoint has its optimizer inside.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from ssd import native_log


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", nargs="+", metavar="NAME=FILE")
    parser.add_argument("-r", "--results_dir", required=True, type=Path)
    parser.add_argument("-e", "--experiment_spec", help="for all models, instead of their own")
    args = parser.parse_args()
    native_log.keep_from_terminal()
    named = dict(pair.partition("=")[::2] for pair in args.models)
    if missing := [path for path in named.values() if not Path(path).is_file()]:
        parser.error(f"no such model: {', '.join(missing)}")

    rows = []
    for name, path in named.items():
        folder = args.results_dir / name
        spec = ["-e", args.experiment_spec] if args.experiment_spec else []
        command = ["ssd", "evaluate", "-m", path, "-r", str(folder), "--gallery", "0", "-q", *spec]
        if subprocess.run(command).returncode:
            return 1
        metrics = json.loads((folder / "metrics.json").read_text())
        rows.append({"name": name, "model": path, "mAP": metrics["mAP"], "AP": metrics["coco"]["AP"]})
    measure(rows)
    show(rows)
    (args.results_dir / "comparison.json").write_text(json.dumps(rows, indent=2) + "\n")
    draw(rows, args.results_dir / "comparison.png")
    print(f"results: {args.results_dir}")
    return 0


def measure(rows: list[dict]) -> None:
    """Adds what is read off the networks; of a graph only its size and how fast ONNX Runtime is."""
    from ssd.models.checkpoint import load_model
    from ssd.models.latency import latencies
    from ssd.models.macs import layer_macs
    from ssd.quantization.rewrite import is_quantized

    networks = {}
    for row in rows:
        row["file_bytes"] = Path(row["model"]).stat().st_size
        row["parameters"] = row["macs"] = row["latency_ms"] = None
        if row["model"].endswith(".onnx"):
            row["latency_ms"] = graph_latency(row["model"])
            continue
        artifact = load_model(row["model"], verb=None)
        model = artifact.model
        records = artifact.state.get("pruning") or [{}]  # retraining keeps them
        row["threshold"] = records[-1].get("threshold")
        row["parameters"] = model.count_params()
        row["macs"] = sum(map(layer_macs, model.layers))
        if not is_quantized(model):
            networks[row["name"]] = model
    times = dict(zip(networks, latencies(list(networks.values())), strict=True)) if networks else {}
    for row in rows:
        row["latency_ms"] = times.get(row["name"], row["latency_ms"])


def graph_latency(path: str) -> float:
    """Median milliseconds for one image in ONNX Runtime, NMS included where the graph has it."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (source,) = session.get_inputs()
    kind = np.uint8 if "uint8" in source.type else np.float32
    image = np.zeros([size if isinstance(size, int) else 1 for size in source.shape], kind)
    times = []
    for _ in range(25):
        start = time.perf_counter()
        session.run(None, {source.name: image})
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[3:])


def show(rows: list[dict]) -> None:
    from ssd.tables import count, table

    def share(row: dict, name: str) -> tuple[str, str]:
        if row[name] is None:
            return "-", ""
        return count(row[name]), f"{row[name] / rows[0][name]:.0%}"

    cells = []
    for row in rows:
        latency = "-" if row["latency_ms"] is None else f"{row['latency_ms']:.1f}"
        quality = ("-" if row[name] is None else f"{row[name]:.4f}" for name in ("mAP", "AP"))  # None without objects
        size = f"{row['file_bytes'] / 1e6:.1f}"
        numbers = *share(row, "parameters"), *share(row, "macs")
        threshold = "" if row.get("threshold") is None else f"{row['threshold']:.3f}"
        cells.append((row["name"], threshold, *quality, *numbers, size, latency))
    print(
        table(("model", "threshold", "mAP", "COCO AP", "parameters", "", "MACs", "", "file, MB", "latency, ms"), cells)
    )


def draw(rows: list[dict], path: Path) -> None:
    """mAP over multiply-adds and over latency, a point a model; at the lower edge those far below the rest."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.5), dpi=110, layout="constrained")
    means = [row["mAP"] for row in rows if row["mAP"] is not None]
    usable = [mean for mean in means if mean > max(means) / 2] or means or [0.0]
    room = max(max(usable) - min(usable), 0.01)
    floor = min(usable) - room
    sides = zip(figure.subplots(1, 2, sharey=True), (("macs", 1e9), ("latency_ms", 1)), strict=True)
    for axes, (key, unit) in sides:
        drawn = sorted((row for row in rows if row[key] and row["mAP"] is not None), key=lambda row: row[key])
        for number, row in enumerate(row for row in drawn if row["mAP"] >= floor):
            where = row[key] / unit, row["mAP"]
            axes.scatter(*where, s=60, color="#1f4e79")
            if sum(other[key] == row[key] for other in drawn) > 1:  # a column of points: names beside them
                axes.annotate(row["name"], where, xytext=(8, -3), textcoords="offset points", fontsize=9)
            else:
                label(axes, row["name"], where, (10, -18)[number % 2])
        for number, row in enumerate(row for row in drawn if row["mAP"] < floor):
            axes.scatter(row[key] / unit, floor, s=60, color="#1f4e79", marker="v", clip_on=False)
            label(axes, f"{row['name']} ({row['mAP']:.3f})", (row[key] / unit, floor), 12 + 14 * number)
        axes.set(xlim=(0, 1.15 * max((row[key] / unit for row in drawn), default=1)))
        axes.set(ylim=(floor, max(usable) + room))
        axes.grid(alpha=0.3)
    left, right = figure.axes
    left.set(xlabel="G multiply-adds an image", ylabel="mAP")
    right.set(xlabel="milliseconds an image in Keras, without NMS")
    figure.savefig(path)


def label(axes, text: str, where: tuple[float, float], height: int) -> None:
    """`text` above a point, `height` typographic points from it; below it where negative."""
    axes.annotate(text, where, xytext=(0, height), textcoords="offset points", ha="center", fontsize=9)


if __name__ == "__main__":
    sys.exit(main())

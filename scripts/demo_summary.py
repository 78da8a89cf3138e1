"""The last page of `make demo`: what came out, how long it took, where to look."""

import json
import sys
from pathlib import Path

STEPS = ("data", "convert", "train", "evaluate", "prune", "retrain", "retrained", "export", "inference")


def main(folder: Path) -> None:
    metrics = json.loads((folder / "evaluate" / "metrics.json").read_text())
    seconds = {step: int((folder / f".{step}").read_text().split()[0]) for step in STEPS}
    print("\n--- demo ---")
    for name, row in metrics["classes"].items():
        print(f"AP {name:<10} {row['AP']:.3f}")
    print(f"mAP at IoU {metrics['matching_iou_threshold']}  {metrics['mAP']:.3f}")
    pruning = json.loads((folder / "prune" / "pruning.json").read_text())
    retrained = json.loads((folder / "retrain" / "evaluate" / "metrics.json").read_text())
    macs = pruning["macs"][1] / pruning["macs"][0]
    left = f"{pruning['pruning_ratio']:.0%} of the parameters and {macs:.0%} of the multiply-adds"
    print(f"pruned to {left}, retrained: mAP {retrained['mAP']:.3f}")
    proof = json.loads((folder / "export" / "export.json").read_text())["proof"]
    if proof:
        print(f"exported as {proof[-1]['artifact']}: mAP {proof[-1]['mAP']:.3f}")
    total = sum(seconds.values())
    print("seconds: " + ", ".join(f"{step} {seconds[step]}" for step in STEPS) + f"; {total} in all")
    for path in (
        folder / "train" / "learning_curve.png",
        folder / "evaluate" / "PR_curve.png",
        folder / "evaluate" / "worst_images.png",
        folder / "prune" / "pruning.png",
        folder / "export" / "int8.onnx",
        folder / "inference" / "images_annotated",
    ):
        print(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

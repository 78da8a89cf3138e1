"""Does the training pipeline's memory stay flat? Resident memory over 20,000 images, all augmentation on.

    python scripts/benchmarks/memory.py [--count 20000] [--png memory.png] [--json memory.json]

The data set is a few hundred different JPEGs under COUNT names (hard links): one epoch. The slope is that of a straight
line through the samples behind the first 2,000 images, MB per 10,000 images.
"""

import argparse
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
from data_path import make_loader, make_pictures
from timing import machine, write_json

DISTINCT = 300
EVERY = 200  # images between two looks
SETTLED = 2000  # images before which buffers still fill
BATCH = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, help="folder of photographs (default: scikit-learn's two)")
    parser.add_argument("--count", type=int, default=20000)
    parser.add_argument("--png", type=Path, help="the picture (default: beside the JSON)")
    parser.add_argument("--json", type=Path, help="write all numbers here")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        images, labels = many(Path(folder), args.images, args.count)
        seen, memory = watch(make_loader(images, labels, len(os.sched_getaffinity(0))))
    settled = seen >= SETTLED
    slope = np.polyfit(seen[settled], memory[settled], 1)[0] * 10_000
    spread = np.ptp(memory[settled])
    print(f"{seen[-1]:.0f} images: {memory[-1]:.0f} MB at the end, spread behind the first {SETTLED} {spread:.0f} MB")
    print(f"{slope:+.1f} MB per 10,000 images")
    picture = args.png or (args.json or Path("memory.json")).with_suffix(".png")
    picture.parent.mkdir(parents=True, exist_ok=True)
    plot(seen, memory, slope, picture)
    print(picture)
    content = {"slope_mb_per_10000": slope, "images": seen.tolist(), "rss_mb": memory.tolist()}
    write_json(args.json, {"machine": machine(), **content})


def many(folder: Path, source: Path | None, count: int) -> tuple[Path, Path]:
    """Folders of `count` images and labels."""
    few, images, labels = folder / "few", folder / "images", folder / "labels"
    for path in (few, images, labels):
        path.mkdir()
    paths, _ = make_pictures(few, source, min(count, DISTINCT))
    for number in range(count):
        path = Path(paths[number % len(paths)])
        os.link(path, images / f"{number:06d}.jpg")
        shutil.copyfile(few / "labels" / f"{path.stem}.txt", labels / f"{number:06d}.txt")
    return images, labels


def watch(loader) -> tuple[np.ndarray, np.ndarray]:
    """Images so far and resident memory, MB, at every look."""
    seen, looks = 0, []
    for _, truth in loader.epoch(0):
        before, seen = seen, seen + len(truth["index"])
        if seen // EVERY > before // EVERY:
            looks.append((seen, resident_mb()))
    return tuple(np.array(looks, float).T)


def resident_mb() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:"))


def plot(seen: np.ndarray, memory: np.ndarray, slope: float, path: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4))
    axes.plot(seen, memory)
    axes.axvline(SETTLED, color="gray", linestyle=":")
    axes.set(xlabel="images", ylabel="resident memory, MB", ylim=(0, 1.2 * memory.max()))
    axes.set_title(f"training pipeline: {slope:+.1f} MB per 10,000 images behind the first {SETTLED}")
    figure.savefig(path, dpi=120, bbox_inches="tight")


if __name__ == "__main__":
    main()

"""How fast is `ssd dataset_convert`, beside copying the same bytes, and does the cost of an image stay the same?

    python scripts/benchmarks/convert.py [--counts 1000 5000 50000] [--rounds 3] [--folder FOLDER] [--json convert.json]

A KITTI folder and a COCO one of n JPEGs 500x375 with six objects each are converted by the installed command with one
worker process and with two. The pictures are at most DISTINCT different ones under n names (hard links), so that 50,000
of them fit a small disk; every one is read and written as if it were its own. They are in the file cache: what is
measured is the CPU and the writing. The copy reads file after file into one new file and syncs it, before each
conversion, so that other load on the machine hits both. The command's start, measured with STARTING images, is taken
off; CPU time is that of all its processes, memory that of the largest of them.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from data_path import HEIGHT, WIDTH, make_pictures
from timing import machine, write_json

DISTINCT = 2000
STARTING = 10

# In a small process of its own: a child counts the memory of the process that it was forked from as its own.
MEASURE = """
import json, os, subprocess, sys, time
began = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
wall = time.perf_counter() - began
print(json.dumps({"wall": wall, "cpu": usage.ru_utime + usage.ru_stime, "memory_mb": usage.ru_maxrss / 1024}))
sys.exit(status != 0)
"""
KITTI = """
kitti_config {{
  root_directory_path: "{root}" image_dir_name: "images" label_dir_name: "labels" image_extension: ".jpg"
  partition_mode: "random" num_partitions: 2 val_split: 14 num_shards: 10
}}
target_class_mapping {{ key: "thing" value: "thing" }}
"""
COCO = """
coco_config {{
  root_directory_path: "{root}" img_dir_names: ["images"] annotation_files: ["coco.json"]
  num_partitions: 1 num_shards: [20]
}}
target_class_mapping {{ key: "thing" value: "thing" }}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, help="folder of photographs (default: scikit-learn's two)")
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 5000, 50000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to work; needs twice the bytes of the largest n")
    parser.add_argument("--json", type=Path, help="write all numbers here")
    args = parser.parse_args()
    rows = []
    print(f"{'':6}{'n':>7}{'workers':>9}{'images/s':>10}{'CPU us/image':>14}{'MB/s':>7}{'of the copy':>13}{'MB':>6}")
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        pictures = Path(folder) / "pictures"
        pictures.mkdir()
        make_pictures(pictures, args.images, min(DISTINCT, max(args.counts)))
        for kind in ("kitti", "coco"):
            starts = [convert(kind, dataset(pictures, STARTING), 1) for _ in range(3)]
            start = min(starts, key=lambda turn: turn["wall"])
            for count in args.counts:
                root = dataset(pictures, count)
                for workers in (1, 2):
                    turns = [measure(kind, root, workers, start, count) for _ in range(args.rounds)]
                    rows.append({"kind": kind, "count": count, "workers": workers, "start": start, "turns": turns})
                    print(line(rows[-1]), flush=True)
                shutil.rmtree(root)
    for kind in ("kitti", "coco"):
        costs = [min(values(row, "cpu_us")) for row in rows if row["kind"] == kind and row["workers"] == 1]
        print(f"{kind}: CPU of an image at n = {args.counts[-1]} over n = {args.counts[0]}: {costs[-1] / costs[0]:.2f}")
    write_json(args.json, {"machine": machine(), "rows": rows})


def dataset(pictures: Path, count: int) -> Path:
    """A folder of `count` images with KITTI labels and a COCO file of the same boxes."""
    root = pictures.parent / f"data-{count}"
    if root.exists():
        return root
    for name in ("images", "labels"):
        (root / name).mkdir(parents=True)
    labels = sorted((pictures / "labels").iterdir())
    boxes = [[float(value) for value in row.split()[4:8]] for row in labels[0].read_text().splitlines()]
    images, annotations = [], []
    for number in range(count):
        label = labels[number % len(labels)]
        os.link(pictures / "images" / f"{label.stem}.jpg", root / "images" / f"{number:06d}.jpg")
        shutil.copyfile(label, root / "labels" / f"{number:06d}.txt")
        images.append({"id": number, "file_name": f"{number:06d}.jpg", "height": HEIGHT, "width": WIDTH})
        for x1, y1, x2, y2 in boxes:
            item = {"image_id": number, "category_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": 0}
            annotations.append({"id": len(annotations), **item})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    (root / "coco.json").write_text(json.dumps(content))
    return root


def measure(kind: str, root: Path, workers: int, start: dict, count: int) -> dict:
    """One conversion and the copy before it, per image; the start is taken off."""
    copied = copy(root)
    turn = convert(kind, root, workers)
    wall = (turn["wall"] - start["wall"]) / (count - STARTING)
    return {
        "images_per_second": 1 / wall,
        "cpu_us": (turn["cpu"] - start["cpu"]) / (count - STARTING) * 1e6,
        "megabytes_per_second": turn["bytes"] / count / wall / 1e6,
        "of_copy": copied["wall"] / count / wall,
        "copy_images_per_second": count / copied["wall"],
        "memory_mb": turn["memory_mb"],
    }


def convert(kind: str, root: Path, workers: int) -> dict:
    """Wall and CPU seconds of the command, bytes that it wrote, memory of its largest process."""
    spec, out = root / f"{kind}.txt", root / "out"
    spec.write_text((KITTI if kind == "kitti" else COCO).format(root=root))
    command = [sys.executable, "-m", "ssd", "dataset_convert", "-d", str(spec), "-o", str(out / "a")]
    command += ["--processes", str(workers)]
    measured = subprocess.run([sys.executable, "-c", MEASURE, *command], stdout=subprocess.PIPE, text=True, check=True)
    result = json.loads(measured.stdout)
    written = sum(path.stat().st_size for path in out.iterdir())
    shutil.rmtree(out)
    os.sync()  # what is left to be written is not to burden the next measurement
    return {**result, "bytes": written}


def copy(root: Path) -> dict:
    """The disk's limit: file after file into one new file."""
    target = root / "copy"
    paths = sorted((root / "images").iterdir())
    began = time.perf_counter()
    with open(target, "wb", buffering=0) as out:
        for path in paths:
            with open(path, "rb", buffering=0) as file:
                out.write(file.read())
        os.fsync(out.fileno())
    wall = time.perf_counter() - began
    target.unlink()
    os.sync()
    return {"wall": wall}


def values(row: dict, name: str) -> list[float]:
    return [turn[name] for turn in row["turns"]]


def line(row: dict) -> str:
    """Medians of a row; the range of images/s behind."""
    middle = {name: statistics.median(values(row, name)) for name in row["turns"][0]}
    rates = values(row, "images_per_second")
    return (
        f"{row['kind']:6}{row['count']:>7}{row['workers']:>9}{middle['images_per_second']:>10.0f}"
        f"{middle['cpu_us']:>14.0f}{middle['megabytes_per_second']:>7.0f}{middle['of_copy']:>13.2f}"
        f"{middle['memory_mb']:>6.0f}  ({min(rates):.0f}-{max(rates):.0f})"
    )


if __name__ == "__main__":
    main()

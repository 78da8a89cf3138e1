"""How fast is the data path? Decoding alone, the full training pipeline, and the same augmentations in numpy/OpenCV.

    python scripts/benchmarks/data_path.py [--images FOLDER] [--rounds 5] [--json data_path.json]

500x375 JPEGs, in bytes near those of Pascal VOC, to batches for a 300x300 network, all augmentation on, on as many
CPUs as the process may use (for 2: `taskset -c 0,1 python ...`). The pipeline leaves colour and mean to the training
step and its device; here they are timed by themselves on the CPUs, and "pipeline and step" is the sum. The pipeline
runs by itself and with either cache of decoded images, which is filled before the clock starts; the one on disk also
with nothing of it in memory, as when it is larger than that. The ways take turns in every round, so that other load on
the machine hits all alike; a ratio is taken within a round, its median and spread are over rounds. CPU time per image
depends on other load much less than images/s do. The pipeline runs on from epoch to epoch, so its first start is left
out, as are the batches that it prefetched before the clock started.
"""

import argparse
import json
import os
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
WIDTH, HEIGHT, SIDE = 500, 375, 300
MEAN_BGR = (103.939, 116.779, 123.68)
OBJECTS = 6
QUALITY = 97
WARM_UP = 8  # batches; more than a pipeline prefetches
OURS = "ssd, pipeline"
STEP = "ssd, colour and mean in the step"
BOTH = "ssd, pipeline and step"
COLD = "ssd, cache on disk, read anew"
# What is compared with what, and the aim: times as many images/s.
RATIOS = (
    (OURS, "decoding alone", 0.6),
    (BOTH, "decoding alone", 0.6),
    (BOTH, "numpy/OpenCV", 3.0),
    ("ssd, cache in memory", OURS, 1.3),
    ("ssd, cache on disk", OURS, 1.3),
    (COLD, OURS, 1.3),
)


# The numpy/OpenCV version: SSD's augmentations one after the other on the picture, as they are usually written.


def opencv_sample(path: str, boxes: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One augmented sample: float32 `(300, 300, 3)` BGR minus mean, and boxes `(N, 4)` in its pixels."""
    import cv2

    image = cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2RGB)
    image = _distort(image.astype(np.float32), rng)
    boxes = boxes * np.array([WIDTH, HEIGHT, WIDTH, HEIGHT], np.float32)
    image, boxes = _zoom_out(image, boxes, rng)
    image, boxes = _crop(image, boxes, rng)
    height, width = image.shape[:2]
    if rng.random() < 0.5:
        image = image[:, ::-1]
        boxes = np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1)
    image = cv2.resize(np.ascontiguousarray(image), (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
    boxes = boxes * np.array([SIDE / width, SIDE / height] * 2, np.float32)
    return image[:, :, ::-1] - np.array(MEAN_BGR, np.float32), boxes


def _distort(image, rng):
    contrast_first = rng.random() < 0.5
    if rng.random() < 0.5:
        image = np.clip(image + rng.uniform(-32, 32), 0, 255)
    if contrast_first:
        image = _contrast(image, rng)
    image = _saturation_and_hue(image, rng)
    return image if contrast_first else _contrast(image, rng)


def _contrast(image, rng):
    return np.clip(127.5 + rng.uniform(0.5, 1.5) * (image - 127.5), 0, 255) if rng.random() < 0.5 else image


def _saturation_and_hue(image, rng):
    import cv2

    hsv = cv2.cvtColor(np.round(image).astype(np.uint8), cv2.COLOR_RGB2HSV).astype(np.float32)
    if rng.random() < 0.5:
        hsv[:, :, 1] = np.clip(hsv[:, :, 1] * rng.uniform(0.5, 1.5), 0, 255)
    if rng.random() < 0.5:
        hsv[:, :, 0] = (hsv[:, :, 0] + rng.uniform(-18, 18)) % 180
    return cv2.cvtColor(np.round(hsv).astype(np.uint8), cv2.COLOR_HSV2RGB).astype(np.float32)


def _zoom_out(image, boxes, rng):
    if rng.random() < 0.5:
        return image, boxes
    height, width = image.shape[:2]
    factor = rng.uniform(1, 4)
    canvas = np.empty((int(height * factor), int(width * factor), 3), np.float32)
    canvas[:] = MEAN_BGR[::-1]
    y, x = rng.integers(0, canvas.shape[0] - height + 1), rng.integers(0, canvas.shape[1] - width + 1)
    canvas[y : y + height, x : x + width] = image
    return canvas, boxes + np.array([x, y, x, y], np.float32)


def _crop(image, boxes, rng):
    height, width = image.shape[:2]
    while True:
        option = rng.integers(0, 7)
        if option == 6:
            return image, boxes
        least = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)[option]
        for _ in range(50):
            h, w = int(rng.uniform(0.3, 1) * height), int(rng.uniform(0.3, 1) * width)
            if not 0.5 <= w / h <= 2:
                continue
            y, x = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
            near = np.maximum(boxes[:, :2], (x, y))
            far = np.minimum(boxes[:, 2:], (x + w, y + h))
            shared = np.prod(np.maximum(far - near, 0), axis=1)
            areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
            if not np.any(shared / (areas + h * w - shared) > least):
                continue
            centres = (boxes[:, :2] + boxes[:, 2:]) / 2 - (x, y)
            kept = np.all((centres >= 0) & (centres < (w, h)), axis=1)
            boxes = np.clip(boxes[kept] - (x, y, x, y), 0, (w, h, w, h)).astype(np.float32)
            return image[y : y + h, x : x + w], boxes


def opencv_worker(paths: list[str], boxes: np.ndarray, seed: int) -> float:
    """Augments every path once; returns the CPU seconds spent."""
    import cv2

    cv2.setNumThreads(1)
    began = time.process_time()
    rng = np.random.default_rng(seed)
    for path in paths:
        opencv_sample(path, boxes, rng)
    return time.process_time() - began


# The measurements. Each returns (wall seconds, CPU seconds) per image of one pass over the pictures.


def decoding_alone(paths: list[str], cpus: int):
    import tensorflow as tf

    options = tf.data.Options()
    options.threading.private_threadpool_size = cpus
    options.threading.max_intra_op_parallelism = 1
    dataset = tf.data.Dataset.from_tensor_slices(paths)
    dataset = dataset.map(lambda path: tf.io.decode_jpeg(tf.io.read_file(path), channels=3), cpus).with_options(options)

    def measure(_):
        return steady(dataset.batch(16).prefetch(4))

    return measure


def make_loader(images: Path, labels: Path, cpus: int, cache: str | Path | None = None):
    """The training pipeline with all augmentation on."""
    from ssd.data.pipeline import Loader
    from ssd.data.sources import index_sources
    from ssd.spec.config import Augmentation, Dataset, DataSource

    augmentation = Augmentation(
        width=SIDE,
        height=SIDE,
        channels=3,
        mean=MEAN_BGR,
        crop_scale=(0.3, 1.0),
        crop_aspect_ratio=(0.5, 2.0),
        zoom_out=(1.0, 4.0),
        brightness=32.0,
        contrast=0.5,
        saturation=0.5,
        hue=18.0,
        flip=0.5,
    )
    source = DataSource(image_dir=str(images), label_dir=str(labels))
    dataset = Dataset((source,), (), ("thing",), (("thing", "thing"),), True)
    index = index_sources([source], dataset, "training")
    loader = Loader(index, augmentation, batch_size=16, seed=1, workers=cpus)
    if cache is not None:
        loader.keep_decoded(cache)
    return loader


def full_pipeline(loader):
    def measure(number):
        result = steady(loader.epoch(number))
        time.sleep(2.0)  # what it prefetches of the next epoch is not to burden the next measurement
        return result

    return measure


def forgotten(pixels: Path, measure):
    """`measure` with nothing of the file in memory when it begins."""

    def measure_cold(number):
        with open(pixels, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return measure(number)

    return measure_cold


def colour_and_mean(loader):
    """What a training step does to the pixels of the pipeline before the network."""
    import tensorflow as tf

    from ssd.training.hardware import fused
    from ssd.training.pixels import network_input

    pixels, truth = next(iter(loader.epoch(0)))
    finish = tf.function(fused(lambda pixels: network_input(pixels, loader.augmentation)), autograph=False)
    finish(pixels)
    images, times = len(truth["index"]), 20

    def measure(_):
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(times):
            finish(pixels).numpy()
        return (time.perf_counter() - wall) / images / times, (time.process_time() - cpu) / images / times

    return measure


def opencv_version(paths: list[str], boxes: np.ndarray, cpus: int, pool: ProcessPoolExecutor):
    def measure(number):
        began = time.perf_counter()
        shares = [pool.submit(opencv_worker, paths[part::cpus], boxes, number * cpus + part) for part in range(cpus)]
        cpu = sum(share.result() for share in shares)
        return (time.perf_counter() - began) / len(paths), cpu / len(paths)

    return measure


def steady(batches) -> tuple[float, float]:
    """Wall and CPU seconds per image, all threads of this process, once the batches made beforehand are used up."""
    images = 0
    for number, batch in enumerate(batches):
        if number == WARM_UP:
            wall, usage = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
        if number > WARM_UP:
            images += len(batch[1]["index"] if isinstance(batch, tuple) else batch)
    wall = time.perf_counter() - wall
    end = resource.getrusage(resource.RUSAGE_SELF)
    return wall / images, (end.ru_utime + end.ru_stime - usage.ru_utime - usage.ru_stime) / images


def make_pictures(folder: Path, source: Path | None, count: int) -> tuple[list[str], np.ndarray]:
    """JPEGs of 500x375 cut from photographs, each with the same labelled boxes. Returns paths and relative boxes."""
    import cv2

    if source:
        originals = [cv2.imread(str(path)) for path in sorted(source.iterdir())[:count]]
    else:
        from sklearn.datasets import load_sample_images

        originals = [image[:, :, ::-1] for image in load_sample_images().images]
    originals = [image for image in originals if image is not None and min(image.shape[:2]) >= 64]
    rng = np.random.default_rng(0)
    corners = np.sort(rng.uniform(0, 1, (OBJECTS, 2, 2)), axis=1)
    corners[:, 1] = np.minimum(np.maximum(corners[:, 1], corners[:, 0] + 0.1), 1.0)
    corners[:, 0] = np.minimum(corners[:, 0], corners[:, 1] - 0.05)
    boxes = corners.reshape(-1, 4).astype(np.float32)
    (folder / "images").mkdir()
    (folder / "labels").mkdir()
    lines = [
        f"thing 0 0 0 {a * WIDTH:.2f} {b * HEIGHT:.2f} {c * WIDTH:.2f} {d * HEIGHT:.2f} 0 0 0 0 0 0 0\n"
        for a, b, c, d in boxes
    ]
    paths = []
    for number in range(count):
        image = originals[number % len(originals)]
        part = rng.uniform(0.7, 1.0)
        h, w = int(image.shape[0] * part), int(image.shape[1] * part)
        y, x = rng.integers(0, image.shape[0] - h + 1), rng.integers(0, image.shape[1] - w + 1)
        picture = cv2.resize(image[y : y + h, x : x + w], (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
        paths.append(str(folder / "images" / f"{number:05d}.jpg"))
        cv2.imwrite(paths[-1], picture, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        (folder / "labels" / f"{number:05d}.txt").write_text("".join(lines))
    return paths, boxes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, help="folder of photographs (default: scikit-learn's two)")
    parser.add_argument("--count", type=int, default=600, help="pictures per pass (default: 600)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write all numbers here")
    args = parser.parse_args()
    if args.count < 16 * (WARM_UP + 2):
        parser.error(f"--count: at least {16 * (WARM_UP + 2)}, or nothing is left behind the warm-up")
    if args.images and not args.images.is_dir():
        parser.error(f"--images {args.images}: no such folder")
    cpus = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(cpus, mp_context=get_context("spawn")) as pool:
        paths, boxes = make_pictures(Path(folder), args.images, args.count)
        size = np.mean([os.path.getsize(path) for path in paths])
        images, labels = Path(folder) / "images", Path(folder) / "labels"
        loader, cache = make_loader(images, labels, cpus), Path(folder) / "cache"
        ways = {
            "decoding alone": decoding_alone(paths, cpus),
            OURS: full_pipeline(loader),
            STEP: colour_and_mean(loader),
            "ssd, cache in memory": full_pipeline(make_loader(images, labels, cpus, "memory")),
            "ssd, cache on disk": full_pipeline(make_loader(images, labels, cpus, cache)),
            COLD: forgotten(cache / "pixels.raw", full_pipeline(make_loader(images, labels, cpus, cache))),
            "numpy/OpenCV": opencv_version(paths, boxes, cpus, pool),
        }
        for measure in ways.values():
            measure(0)  # traces, imports, warms the file cache
        rounds = [{name: measure(number) for name, measure in ways.items()} for number in range(1, args.rounds + 1)]
    for turn in rounds:
        turn[BOTH] = tuple(np.add(turn[OURS], turn[STEP]))
    report(rounds, args, cpus, size)


def report(rounds: list[dict], args: argparse.Namespace, cpus: int, size: float) -> None:
    what = f"{args.count} JPEGs {WIDTH}x{HEIGHT} of {size / 1024:.0f} KiB to {SIDE}x{SIDE}"
    print(f"{what}, {cpus} CPUs, {len(rounds)} rounds")
    print(f"{'':34}{'images/s, median (range)':>28}{'CPU ms/image':>15}")
    numbers = {}
    for name in rounds[0]:
        rates = np.array([1 / turn[name][0] for turn in rounds])
        cpu = np.array([turn[name][1] * 1e3 for turn in rounds])
        numbers[name] = {"images_per_second": rates.tolist(), "cpu_ms_per_image": cpu.tolist()}
        print(f"{name:34}{np.median(rates):>12.0f} ({rates.min():.0f}-{rates.max():.0f}){np.median(cpu):>16.2f}")
    ratios = {}
    for ours, other, aim in RATIOS:
        wall = np.array([turn[other][0] / turn[ours][0] for turn in rounds])
        cpu = np.array([turn[other][1] / turn[ours][1] for turn in rounds])
        ratios[f"{ours} to {other}"] = {"images_per_second": wall.tolist(), "cpu": cpu.tolist()}
        print(
            f"{ours}, to {other}: {np.median(wall):.2f} ({wall.min():.2f}-{wall.max():.2f}) in images/s, "
            f"{np.median(cpu):.2f} ({cpu.min():.2f}-{cpu.max():.2f}) in CPU time; the aim is {aim}"
        )
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(
            json.dumps({"count": args.count, "cpus": cpus, "ways": numbers, "ratios": ratios}, indent=1)
        )


if __name__ == "__main__":
    main()

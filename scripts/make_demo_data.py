#!/usr/bin/env python3
"""Makes a small detection dataset out of pictures that Python packages carry: handwritten digits on photographs.

    python scripts/make_demo_data.py --output demo/data --train 1000 --val 200 --size 256x256 --seed 1

writes

    training/image_2/000000.jpg ...      training/label_2/000000.txt ...     KITTI, 15 columns
    validation/image_2/000000.jpg ...    validation/label_2/000000.txt ...
    testing/image_2/000000.jpg ...                                           to look at, without labels
    sequence_to_frames.json                                                  training frames by photograph
    annotations/instances_train.json, instances_val.json                     the same objects as COCO

The digits are scikit-learn's (8x8 scans of real handwriting, classes digit_0 to digit_9), the photographs
scikit-learn's and scikit-image's. Neither a digit nor a photograph of the training images appears in the others.
Digits vary in size, angle and colour; some overlap (the covered one is marked as occluded), some are cut by the
border, some images are empty, and a few digits are too small and faint to be asked for: DontCare in KITTI, iscrowd
in COCO. The same flags give the same bytes, and an image depends on the seed and its own number only.
"""

import argparse
import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

TRAINING_PHOTOS = ("china", "astronaut", "coffee", "rocket", "motorcycle_left")
OTHER_PHOTOS = ("flower", "chelsea")

EMPTY_SHARE = 0.06  # of the images
DONT_CARE_SHARE = 0.1
MIN_VISIBLE = 0.35  # of a digit's ink: no digit is covered further than this
MIN_INSIDE = 0.4  # of a digit's box: no digit is cut further than this
MIN_CONTRAST = 80  # of luma, 0..255: how much brighter a digit is than what it is written on
SIZES = (1.0, 1.0, 0.8, 1.25)  # images are not all of one size
DONT_CARE_ROW = "DontCare -1 -1 -10 {:.2f} {:.2f} {:.2f} {:.2f} -1 -1 -1 -1000 -1000 -1000 -10"


@dataclass
class Digit:
    """One digit in an image.

    Attributes:
        number: 0..9.
        box: xmin, ymin, xmax, ymax in pixels, within the image.
        truncated: the share of its box outside the image.
        ink: bool (height, width), the pixels it wrote.
        visible: bool, those of them that nothing covered later.
        care: False for one that is too small and faint to be asked for.
    """

    number: int
    box: tuple[float, float, float, float]
    truncated: float
    ink: np.ndarray
    visible: np.ndarray
    care: bool

    @property
    def occlusion(self) -> int:
        """KITTI's levels: 0 fully visible, 1 partly covered, 2 largely covered."""
        share = self.visible.sum() / max(1, self.ink.sum())
        return 0 if share > 0.9 else 1 if share > 0.6 else 2


def load_digits(training: bool) -> tuple[np.ndarray, np.ndarray]:
    """Scans `(N, 8, 8)` in 0..1 and their numbers `(N,)`. Every fourth one is kept from training."""
    from sklearn.datasets import load_digits as load

    digits = load()
    chosen = (np.arange(len(digits.target)) % 4 != 3) == training
    return digits.images[chosen] / 16.0, digits.target[chosen]


def load_photo(name: str) -> np.ndarray:
    """A photograph, uint8 (height, width, 3)."""
    if name in ("china", "flower"):
        from sklearn.datasets import load_sample_image

        return np.asarray(load_sample_image(f"{name}.jpg"))
    import skimage.data

    # The files lie in the package; the loader functions of some of them would look for a download first.
    folder = Path(skimage.data.__file__).parent
    path = next(path for path in sorted(folder.iterdir()) if path.stem == name)
    return np.asarray(Image.open(path).convert("RGB"))


def background(random: np.random.Generator, photo: np.ndarray, width: int, height: int) -> np.ndarray:
    """A random crop of the photograph, at the image's size and aspect, sometimes mirrored: float32 RGB."""
    rows, columns = photo.shape[:2]
    share = random.uniform(0.45, 1.0) * min(columns / width, rows / height)
    w, h = width * share, height * share
    x, y = random.uniform(0, columns - w), random.uniform(0, rows - h)
    crop = Image.fromarray(photo).resize((width, height), Image.Resampling.BICUBIC, box=(x, y, x + w, y + h))
    pixels = np.asarray(crop, dtype=np.float32)
    if random.random() < 0.5:
        pixels = pixels[:, ::-1]
    return pixels * random.uniform(0.35, 0.65)  # dim, so that the digits stand out


def draw_glyph(random: np.random.Generator, scan: np.ndarray, height: float) -> np.ndarray:
    """The scan as smooth ink, float32 (h, w) in 0..1, cropped to it; about `height` pixels high, a little turned."""
    width = height * random.uniform(0.8, 1.15)
    # A margin of two for the rotation: 12 cells, of which the middle 8 come out `height` pixels high.
    page = Image.fromarray(np.pad(scan, 2).astype(np.float32))
    page = page.resize((round(width * 1.5), round(height * 1.5)), Image.Resampling.BICUBIC)
    page = page.rotate(random.uniform(-10, 10), Image.Resampling.BILINEAR)
    ink = np.clip((np.asarray(page) - 0.36) / 0.2, 0, 1)
    rows, columns = np.flatnonzero((ink > 0.5).any(1)), np.flatnonzero((ink > 0.5).any(0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def pick_colour(random: np.random.Generator, under: np.ndarray, contrast: float) -> np.ndarray:
    """A random colour that is brighter than the pixels `under` it by `contrast` in luma; white if none is found."""
    luma = np.array([0.299, 0.587, 0.114])
    surrounding = float((under.reshape(-1, 3) @ luma).mean())
    for _ in range(20):
        colour = random.uniform(0, 255, 3)
        if contrast <= float(colour @ luma) - surrounding <= 2.5 * contrast:
            return colour
    return np.full(3, 255.0)


def add_digit(random, pixels, digits: list[Digit], scans, numbers, *, care: bool) -> None:
    """Writes one more digit into `pixels` and appends it to `digits`, if a fitting place is found in a few trials."""
    rows, columns = pixels.shape[:2]
    short = min(rows, columns)
    index = int(random.integers(len(numbers)))
    height = short * (np.exp(random.uniform(np.log(0.28), np.log(0.72))) if care else random.uniform(0.04, 0.06))
    glyph = draw_glyph(random, scans[index], height)
    h, w = glyph.shape
    for _ in range(20):
        x, y = (int(random.integers(-w // 2, columns - w // 2)), int(random.integers(-h // 2, rows - h // 2)))
        if random.random() < 0.75:  # most stay inside
            x, y = max(0, min(x, columns - w)), max(0, min(y, rows - h))
        x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + w, columns), min(y + h, rows)
        inside = (x1 - x0) * (y1 - y0) / (w * h) if x1 > x0 and y1 > y0 else 0.0
        if inside < MIN_INSIDE:
            continue
        alpha = np.zeros((rows, columns), np.float32)
        alpha[y0:y1, x0:x1] = glyph[y0 - y : y1 - y, x0 - x : x1 - x]
        ink = alpha > 0.5
        if ink.sum() < 0.4 * (glyph > 0.5).sum() or not _leaves_enough(digits, ink):
            continue
        colour = pick_colour(random, pixels[y0:y1, x0:x1], MIN_CONTRAST if care else 15)
        pixels += alpha[..., None] * (colour - pixels)
        for other in digits:
            other.visible &= ~ink
        # The box is that of the ink left inside the border.
        ys, xs = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
        box = (float(xs[0]), float(ys[0]), float(xs[-1] + 1), float(ys[-1] + 1))
        digits.append(Digit(int(numbers[index]), box, 1 - inside, ink, ink.copy(), care))
        return


def _leaves_enough(digits: list[Digit], ink: np.ndarray) -> bool:
    """Whether each digit stays readable under `ink`, and none has nearly the box of the new one."""
    if any((digit.visible & ~ink).sum() < MIN_VISIBLE * digit.ink.sum() for digit in digits):
        return False
    ys, xs = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    x0, y0, x1, y1 = xs[0], ys[0], xs[-1] + 1, ys[-1] + 1
    for digit in digits:
        a0, b0, a1, b1 = digit.box
        shared = max(0, min(x1, a1) - max(x0, a0)) * max(0, min(y1, b1) - max(y0, b0))
        if shared > 0.35 * min((x1 - x0) * (y1 - y0), (a1 - a0) * (b1 - b0)):
            return False
    return True


def make_image(random, photo, scans, numbers, size: tuple[int, int]) -> tuple[np.ndarray, list[Digit]]:
    """One image, uint8 (height, width, 3), and its digits."""
    factor = random.choice(SIZES)
    pixels = background(random, photo, round(size[0] * factor), round(size[1] * factor))
    digits: list[Digit] = []
    if random.random() >= EMPTY_SHARE:
        if random.random() < DONT_CARE_SHARE:
            add_digit(random, pixels, digits, scans, numbers, care=False)
        for _ in range(random.integers(1, 6)):
            add_digit(random, pixels, digits, scans, numbers, care=True)
    pixels += random.normal(0, random.uniform(0, 5), pixels.shape)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8), digits


def kitti_label(digits: list[Digit]) -> str:
    """15 columns a digit: the last seven, about the third dimension, are zero."""
    rows = []
    for digit in digits:
        if digit.care:
            box = " ".join(f"{value:.2f}" for value in digit.box)
            rows.append(f"digit_{digit.number} {digit.truncated:.2f} {digit.occlusion} 0.00 {box}" + " 0.00" * 7)
        else:
            rows.append(DONT_CARE_ROW.format(*digit.box))
    return "".join(row + "\n" for row in rows)


def coco_objects(digits: list[Digit], image_id: int, first_id: int) -> list[dict]:
    objects = []
    for number, digit in enumerate(digits):
        x0, y0, x1, y1 = digit.box
        objects.append(
            {
                "id": first_id + number,
                "image_id": image_id,
                "category_id": digit.number + 1,
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "area": (x1 - x0) * (y1 - y0),
                "iscrowd": 0 if digit.care else 1,
            }
        )
    return objects


def encode(pixels: np.ndarray, gray: bool) -> bytes:
    image = Image.fromarray(pixels)
    buffer = io.BytesIO()
    (image.convert("L") if gray else image).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def write_fold(output: Path, fold: str, photos, count: int, *, size, seed: int, gray: bool) -> dict[str, list[str]]:
    """Writes `count` images with their labels (none for `testing`) and COCO file. Returns the frames by photograph."""
    images, labels = output / fold / "image_2", output / fold / "label_2"
    images.mkdir(parents=True, exist_ok=True)
    scans, numbers = load_digits(training=fold == "training")
    pictures = {name: load_photo(name) for name in photos}
    sequences: dict[str, list[str]] = {name: [] for name in photos}
    coco: dict[str, list] = {"images": [], "annotations": []}
    coco["categories"] = [{"id": number + 1, "name": f"digit_{number}"} for number in range(10)]
    for index in range(count):
        random = np.random.default_rng([seed, ("training", "validation", "testing").index(fold), index])
        name, frame = str(random.choice(photos)), f"{index:06d}"
        pixels, digits = make_image(random, pictures[name], scans, numbers, size)
        sequences[name].append(frame)
        (images / f"{frame}.jpg").write_bytes(encode(pixels, gray))
        if fold != "testing":
            labels.mkdir(exist_ok=True)
            (labels / f"{frame}.txt").write_text(kitti_label(digits))
            height, width = pixels.shape[:2]
            coco["images"].append({"id": index, "file_name": f"{frame}.jpg", "width": width, "height": height})
            coco["annotations"] += coco_objects(digits, index, len(coco["annotations"]) + 1)
    if fold != "testing":
        path = output / "annotations" / f"instances_{'train' if fold == 'training' else 'val'}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(coco))
    return {name: frames for name, frames in sequences.items() if frames}


def size_flag(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdigit() and height.isdigit() and int(width) >= 64 and int(height) >= 64):
        raise argparse.ArgumentTypeError(f"'{text}' is no WIDTHxHEIGHT of at least 64x64, for example 256x256")
    return int(width), int(height)


def count_flag(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"'{text}' is no number of images")
    return int(text)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", required=True, type=Path, help="folder to write to; may exist")
    parser.add_argument("--train", type=count_flag, default=1000, help="training images (default 1000)")
    parser.add_argument("--val", type=count_flag, default=200, help="validation images (default 200)")
    parser.add_argument("--test", type=count_flag, default=24, help="images without labels (default 24)")
    parser.add_argument("--size", type=size_flag, default=(256, 256), metavar="WxH", help="default 256x256")
    parser.add_argument("--seed", type=count_flag, default=1, help="default 1")
    parser.add_argument("--gray", action="store_true", help="write grayscale images")
    args = parser.parse_args(argv)
    options = {"size": args.size, "seed": args.seed, "gray": args.gray}
    sequences = write_fold(args.output, "training", TRAINING_PHOTOS, args.train, **options)
    write_fold(args.output, "validation", OTHER_PHOTOS, args.val, **options)
    write_fold(args.output, "testing", OTHER_PHOTOS, args.test, **options)
    (args.output / "sequence_to_frames.json").write_text(json.dumps(sequences, indent=1) + "\n")
    print(f"{args.train} training, {args.val} validation and {args.test} test images are in {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

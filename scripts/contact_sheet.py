"""Augmented training samples with their boxes, as one picture: look at it before training.

python scripts/contact_sheet.py -e specs/demo_train.txt -o contact_sheet.png [-n 32] [--epoch 0]
"""

import argparse
import math
import os
import sys

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-e", "--experiment_spec", required=True)
    parser.add_argument("-o", "--output", required=True, help="PNG to write")
    parser.add_argument("-n", "--samples", type=int, default=32)
    parser.add_argument("--epoch", type=int, default=0, help="which epoch's order and augmentation (default: 0)")
    parser.add_argument("--plain", action="store_true", help="the validation data as they are, without augmentation")
    args = parser.parse_args()
    if args.samples < 1:
        parser.error("-n: at least 1")
    from ssd import native_log

    native_log.keep_from_terminal()

    from keras import ops

    from ssd import console
    from ssd.data.pipeline import evaluation_loader, training_loader
    from ssd.errors import SsdError
    from ssd.files import whole_file
    from ssd.spec import load_experiment
    from ssd.training.pixels import network_input

    console.set_up()
    try:
        spec = load_experiment(args.experiment_spec, "evaluate" if args.plain else "train")
        loader = (evaluation_loader if args.plain else training_loader)(spec, batch_size=args.samples)
        pixels, truth = next(iter(loader.epoch(args.epoch)))
    except SsdError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error
    images = ops.convert_to_numpy(pixels if args.plain else network_input(pixels, spec.augmentation))
    tiles = [
        tile(image, boxes, classes, spec)
        for image, boxes, classes in zip(images, truth["boxes"].numpy(), truth["classes"].numpy(), strict=True)
    ]
    with whole_file(args.output) as temporary:
        sheet(tiles).save(temporary)
    for name in loader.names(truth["index"]):
        console.say(name)
    console.say(f"{len(tiles)} samples: {args.output}")


def tile(image: np.ndarray, boxes: np.ndarray, classes: np.ndarray, spec):
    """The picture that a network input `(H, W, C)` stands for, with the boxes of its objects."""
    from PIL import Image

    from ssd.visualize import class_color, draw

    pixels = np.clip(np.round(image + np.array(spec.augmentation.mean)), 0, 255).astype(np.uint8)
    rgb = np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels[..., ::-1]
    objects = classes > 0
    height, width = rgb.shape[:2]
    boxes = boxes[objects] * np.array([width, height, width, height])
    labels = [spec.classes[index - 1] for index in classes[objects]]
    colors = [class_color(index) for index in classes[objects].tolist()]
    return draw(Image.fromarray(np.ascontiguousarray(rgb)), boxes, labels, colors=colors)


def sheet(tiles: list):
    """Tiles of one size, side by side in about twice as many columns as rows."""
    from PIL import Image

    columns = math.ceil(math.sqrt(2 * len(tiles)))
    width, height = tiles[0].size
    picture = Image.new("RGB", (columns * (width + 4), -(-len(tiles) // columns) * (height + 4)), "white")
    for number, image in enumerate(tiles):
        picture.paste(image, (number % columns * (width + 4), number // columns * (height + 4)))
    return picture


if __name__ == "__main__":
    main()

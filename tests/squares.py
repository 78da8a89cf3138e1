"""Pictures with one square each, red or blue by turns: KITTI folders for runs that train for real."""

from pathlib import Path

import numpy as np
from PIL import Image


def make_squares(folder: Path, images: int) -> Path:
    """`images` and `labels` in an existing folder, which is returned."""
    (folder / "images").mkdir()
    (folder / "labels").mkdir()
    rng = np.random.default_rng(1)
    for number in range(images):
        image = rng.integers(90, 110, (128, 128, 3), dtype=np.uint8)
        name, color = (("red", (230, 30, 30)), ("blue", (30, 30, 230)))[number % 2]
        left, top = rng.integers(0, 88, 2)
        image[top : top + 40, left : left + 40] = color
        Image.fromarray(image).save(folder / "images" / f"{number:03d}.png")
        row = f"{name} 0 0 0 {left} {top} {left + 40} {top + 40} 0 0 0 0 0 0 0\n"
        (folder / "labels" / f"{number:03d}.txt").write_text(row)
    return folder

"""Draws boxes with labels so that they can be read in a picture of any size."""

import colorsys
import contextlib
import io
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

Color = tuple[int, int, int]
Rectangle = tuple[float, float, float, float]

LEAST_SIDE = 320  # a picture whose longer side is below this is enlarged: no text fits into 40 pixels
LEAST_TEXT = 11  # pixels; smaller letters blur
GOLDEN = 0.61803398875  # of the hue circle: each next hue falls into the largest gap left


@lru_cache
def class_color(index: int) -> Color:
    """A strong colour for the class `index` (from 1); near ones differ much, and none comes back within 100 classes."""
    hue = (0.01 + GOLDEN * (index - 1)) % 1.0
    lightness = (0.50, 0.62, 0.40)[(index - 1) // 7 % 3]
    red, green, blue = colorsys.hls_to_rgb(hue, lightness, 0.95)
    return round(red * 255), round(green * 255), round(blue * 255)


def draw(
    image: Image.Image,
    boxes: np.ndarray,
    labels: Sequence[str],
    scores: Sequence[float] | None = None,
    *,
    colors: Sequence[Color] | None = None,
    least_side: int = LEAST_SIDE,
) -> Image.Image:
    """A copy of `image` in RGB with an outline and a tag for each box.

    Args:
        boxes: `(N, 4)` corners xmin, ymin, xmax, ymax in pixels of `image`; parts outside it are not drawn.
        labels: N texts; an empty one gives an outline without a tag.
        scores: N numbers, shown behind the labels.
        colors: N colours; without them, each different label gets its own.
        least_side: a picture whose longer side is smaller is enlarged by a whole factor first; 0 never enlarges.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    if colors is None:
        order = {label: index for index, label in enumerate(sorted(set(labels)), start=1)}
        colors = [class_color(order[label]) for label in labels]
    picture, factor = _enlarged(as_rgb(image), least_side)
    canvas = ImageDraw.Draw(picture)
    width = line_width(picture.size)
    shown = [clip_rectangle(box * factor, picture.size) for box in boxes]
    # Large boxes first, so that the outline of a small one inside is not painted over.
    for row in sorted(range(len(shown)), key=lambda row: -_area(shown[row])):
        outline(canvas, shown[row], colors[row], width)
    ends = [""] * len(labels) if scores is None else [f" {score:.2f}" for score in scores]
    texts = [
        fit_text(label, text_size(picture.size), picture.width, end) if label else ""
        for label, end in zip(labels, ends, strict=True)
    ]
    _tags(canvas, picture.size, shown, texts, colors)
    return picture


def upright(content: bytes) -> Image.Image:
    """The image in a file's bytes as RGB, a photograph turned as its EXIF data ask: as `ssd.data.images` decodes it.

    Raises:
        OSError: it does not decode.
    """
    with Image.open(io.BytesIO(content)) as image:
        if image.format in ("JPEG", "MPO"):
            # Damaged EXIF data are no reason to refuse the picture, and Pillow raises every kind over them.
            with contextlib.suppress(Exception):
                return as_rgb(ImageOps.exif_transpose(image))
        return as_rgb(image)


def as_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB of any mode; 16-bit gray keeps its upper byte, as the network sees it."""
    if image.mode.startswith("I;16") or image.mode == "I":
        return Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    return image.copy() if image.mode == "RGB" else image.convert("RGB")


def line_width(size: tuple[int, int]) -> int:
    """Pixels of an outline in a picture of `size` (width, height)."""
    return max(1, round(max(size) / 330 + 0.6))


def text_size(size: tuple[int, int]) -> int:
    """Pixels of the letters in a picture of `size` (width, height)."""
    return max(LEAST_TEXT, round(max(size) / 48))


@lru_cache
def font(pixels: int) -> ImageFont.FreeTypeFont:
    """The font that Pillow carries, at this size."""
    return ImageFont.load_default(pixels)


def outline(canvas: ImageDraw.ImageDraw, box: Rectangle, color: Color, width: int) -> None:
    """A rectangle of `color` between two thin dark lines, so that it shows on any ground."""
    left, top, right, bottom = (round(value) for value in box)
    edge = max(1, width // 3)
    dark = tuple(value // 4 for value in color)
    canvas.rectangle((left - edge, top - edge, right + edge, bottom + edge), outline=dark, width=width + 2 * edge)
    canvas.rectangle((left, top, right, bottom), outline=color, width=width)


def tag(canvas: ImageDraw.ImageDraw, corner: tuple[float, float], text: str, color: Color, letters: int) -> None:
    """`text` on a filled rectangle whose upper left is `corner`."""
    width, height = tag_extent(text, letters)
    left, top = corner
    canvas.rectangle((left, top, left + width - 1, top + height - 1), fill=color)
    # Perceived brightness (ITU-R BT.601) decides between black and white letters.
    bright = (299 * color[0] + 587 * color[1] + 114 * color[2]) / 1000
    at = (left + _padding(letters), top + height / 2)
    canvas.text(at, text, fill=(0, 0, 0) if bright > 125 else (255, 255, 255), font=font(letters), anchor="lm")


def tag_extent(text: str, letters: int) -> tuple[int, int]:
    """Width and height of a tag in pixels."""
    return round(font(letters).getlength(text)) + 2 * _padding(letters) + 1, letters + 2 * _padding(letters)


def clip_rectangle(box: Sequence[float], size: tuple[int, int]) -> Rectangle:
    """`box` inside a picture of `size` (width, height), corners in order; NaN counts as 0."""
    left, top, right, bottom = np.nan_to_num(np.asarray(box, np.float64), posinf=1e9, neginf=-1e9)
    xs = np.clip(sorted((left, right)), 0, size[0] - 1)
    ys = np.clip(sorted((top, bottom)), 0, size[1] - 1)
    return float(xs[0]), float(ys[0]), float(xs[1]), float(ys[1])


def fit_text(text: str, letters: int, width: float, end: str = "") -> str:
    """`text` and `end`; of `text` the beginning and an ellipsis where the tag would be wider than `width` pixels."""
    if tag_extent(text + end, letters)[0] <= width:
        return text + end
    while text and tag_extent(text + "…" + end, letters)[0] > width:
        text = text[:-1]
    return text + "…" + end


def _tags(canvas, size, boxes: list[Rectangle], texts: list[str], colors: Sequence[Color]) -> None:
    """Tags at their boxes, inside the picture, the highest in the list on top; each where it covers others least."""
    letters = text_size(size)
    placed: list[Rectangle] = []
    placements = []
    for row, (box, text) in enumerate(zip(boxes, texts, strict=True)):
        if not text:
            continue
        extent = tag_extent(text, letters)
        options = [_inside(corner, extent, size) for corner in _corners(box, extent)]
        rectangles = [(x, y, x + extent[0], y + extent[1]) for x, y in options]
        covered = [sum(_shared(rectangle, other) for other in placed) for rectangle in rectangles]
        best = int(np.argmin(covered))  # the first of equals: above the box, the usual place
        placed.append(rectangles[best])
        placements.append((options[best], text, colors[row]))
    for corner, text, color in reversed(placements):
        tag(canvas, corner, text, color, letters)


def _corners(box: Rectangle, extent: tuple[int, int]) -> list[tuple[float, float]]:
    left, top, right, bottom = box
    width, height = extent
    above = [(left, top - height), (left, bottom + 1)] if top >= height else [(left, top), (left, bottom + 1)]
    return [*above, (right - width, above[0][1]), (left, top), (left, bottom - height)]


def _inside(corner: tuple[float, float], extent: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    x, y = (round(max(0, min(at, side - length))) for at, length, side in zip(corner, extent, size, strict=True))
    return x, y


def _enlarged(image: Image.Image, least_side: int) -> tuple[Image.Image, int]:
    factor = max(1, -(-least_side // max(image.size)))
    if factor == 1:
        return image, 1
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.BICUBIC), factor


def _padding(letters: int) -> int:
    return max(2, letters // 6)


def _area(box: Rectangle) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _shared(a: Rectangle, b: Rectangle) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))

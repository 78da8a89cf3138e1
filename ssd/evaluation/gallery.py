"""The images a detector did worst on, side by side: what it found, missed and made up."""

import os
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw

from ssd import visualize
from ssd.evaluation.average_precision import Report
from ssd.evaluation.matching import Matches
from ssd.evaluation.results import ImageResult, to_pixels
from ssd.files import whole_file

CELL = (480, 360)  # pixels of one image in the grid
CAPTION = 26
TEXT = 15
# Told apart by brightness as well as hue, for readers who do not see red and green.
FOUND, CORRECT, MISSED, FALSE, IGNORED = (0, 110, 60), (70, 230, 130), (255, 210, 0), (235, 20, 60), (150, 150, 150)
LEGEND = (
    ("object, found", FOUND),
    ("detection, right", CORRECT),
    ("object, missed", MISSED),
    ("detection, false", FALSE),
    ("difficult", IGNORED),
)


def worst_images(
    results: list[ImageResult],
    report: Report,
    matches: Matches,
    image_bytes: Callable[[int], bytes],
    path: str | os.PathLike,
    count: int = 12,
) -> list[str]:
    """Writes a grid of the `count` images with the most false detections and missed objects; returns their names.

    A detection counts from the score with the best F1 of its class on. No file where there is no mistake.
    """
    kept = kept_detections(report, matches)
    missed, false = mistakes(report, matches, kept, len(results))
    errors = missed + false
    worst = [at for at in np.argsort(-errors, kind="stable")[:count].tolist() if errors[at]]
    if not worst:
        return []
    cells = []
    for at in worst:
        picture = visualize.upright(image_bytes(results[at].index))
        caption = f"{os.path.basename(results[at].name)}: {missed[at]} missed, {false[at]} false"
        cells.append(_cell(picture, results[at], at, matches, kept, report, caption))
    with whole_file(path) as temporary:
        _grid(cells).save(temporary, format="PNG")
    return [results[at].name for at in worst]


def kept_detections(report: Report, matches: Matches) -> np.ndarray:
    """bool (D,): scores at least the best-F1 threshold of the class. A class without objects keeps none."""
    thresholds = np.concatenate([[np.inf], report.thresholds()])
    return matches.scores >= thresholds[matches.classes].astype(np.float32)


def mistakes(report: Report, matches: Matches, kept: np.ndarray, images: int) -> tuple[np.ndarray, np.ndarray]:
    """Missed objects and false detections of each image, int (images,)."""
    missed = matches.truth_image[_missed(report, matches)]
    false = matches.image[kept & matches.counted & ~matches.true]
    return np.bincount(missed, minlength=images), np.bincount(false, minlength=images)


def _missed(report: Report, matches: Matches) -> np.ndarray:
    thresholds = np.concatenate([[np.inf], report.thresholds()])
    return ~matches.truth_difficult & (matches.found_score < thresholds[matches.truth_classes])


def _cell(
    picture: Image.Image,
    result: ImageResult,
    at: int,
    matches: Matches,
    kept: np.ndarray,
    report: Report,
    caption: str,
) -> Image.Image:
    names = [row.name for row in report.classes]
    factor = min(CELL[0] / picture.width, CELL[1] / picture.height)
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    objects = matches.truth_image == at
    lost = _missed(report, matches)[objects]
    boxes, labels, colors = [], [], []
    for row, box in enumerate(to_pixels(result.truth_boxes, (size[1], size[0]))):
        color = IGNORED if result.truth_difficult[row] else MISSED if lost[row] else FOUND
        boxes.append(box)
        colors.append(color)
        labels.append(names[result.truth_classes[row] - 1] if color == MISSED else "")
    shown = matches.image == at
    for row, box in enumerate(to_pixels(result.boxes, (size[1], size[0]))):
        if not kept[shown][row]:
            continue
        color = IGNORED if not matches.counted[shown][row] else CORRECT if matches.true[shown][row] else FALSE
        boxes.append(box)
        colors.append(color)
        text = f"{names[result.classes[row] - 1]} {result.scores[row]:.2f}"
        labels.append(text if color == FALSE else "")
    drawn = visualize.draw(
        picture.resize(size, Image.Resampling.LANCZOS),
        np.array(boxes).reshape(-1, 4),
        labels,
        colors=colors,
        least_side=0,
    )
    cell = Image.new("RGB", (CELL[0], CELL[1] + CAPTION), (32, 32, 32))
    cell.paste(drawn, ((CELL[0] - size[0]) // 2, CAPTION))
    text = visualize.fit_text(caption, TEXT, CELL[0] - 8)
    ImageDraw.Draw(cell).text((6, CAPTION // 2), text, fill="white", font=visualize.font(TEXT), anchor="lm")
    return cell


def _grid(cells: Sequence[Image.Image], columns: int = 3) -> Image.Image:
    columns = min(columns, len(cells))
    rows = -(-len(cells) // columns)
    gap, width, height = 6, CELL[0], CELL[1] + CAPTION
    sheet = Image.new("RGB", (columns * (width + gap) + gap, rows * (height + gap) + gap + 32), (60, 60, 60))
    canvas = ImageDraw.Draw(sheet)
    _legend(canvas, sheet.width)
    for at, cell in enumerate(cells):
        sheet.paste(cell, (gap + at % columns * (width + gap), 32 + gap + at // columns * (height + gap)))
    return sheet


def _legend(canvas: ImageDraw.ImageDraw, width: int) -> None:
    # One column of images is too narrow for full-size letters.
    letters = TEXT if width > 700 else 11
    left = 8
    for text, color in LEGEND:
        visualize.tag(canvas, (left, 5), text, color, letters)
        left += visualize.tag_extent(text, letters)[0] + (10 if width > 700 else 3)

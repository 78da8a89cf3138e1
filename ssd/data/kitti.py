"""KITTI labels: one text file an image, one object a line, 15 columns (16 with a detector's score)."""

import math
import os
from collections.abc import Sequence

from ssd.data.audit import LabelProblem
from ssd.data.sample import DONT_CARE, LabelRow, box_fault
from ssd.errors import DataError
from ssd.spec.config import class_key

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp")
COLUMNS = (
    *("class", "truncation", "occlusion", "alpha", "left", "top", "right", "bottom"),
    *("height", "width", "length", "x", "y", "z", "rotation_y", "score"),
)


def read_label(path: str | os.PathLike) -> tuple[list[LabelRow], list[LabelProblem]]:
    """The objects of one label file, and the lines that are none. An empty file is an image without objects.

    A file that cannot be read gives one problem that loses the image.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            text = file.read().decode("utf-8-sig")
    except FileNotFoundError:
        return [], [LabelProblem(str(path), None, "missing label", "there is no such label file", "image")]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        return [], [LabelProblem(str(path), None, "unreadable label", f"cannot read the label file: {reason}", "image")]
    return parse_label(text, str(path))


def parse_label(text: str, file: str) -> tuple[list[LabelRow], list[LabelProblem]]:
    """`read_label` for text that is already here."""
    rows: list[LabelRow] = []
    problems: list[LabelProblem] = []
    # Not splitlines(): it also breaks at form feeds and Unicode separators, which editors do not count as lines.
    for line, content in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), start=1):
        if not content.strip():
            continue
        parsed = _parse_line(content.split(), line)
        if isinstance(parsed, LabelRow):
            rows.append(parsed)
        else:
            problems.append(LabelProblem(file, line, *parsed))
    return rows, problems


def _parse_line(tokens: list[str], line: int) -> LabelRow | tuple[str, str]:
    """The row, or the kind of its problem and what is wrong."""
    numbers = _numbers(tokens[1:16])
    if numbers is None:
        column = next(column for column, token in enumerate(tokens[1:16], start=2) if _numbers([token]) is None)
        token = tokens[column - 1]
        hint = "; a class name must not contain spaces" if column == 2 else ""
        if "," in token:
            hint = "; write decimals with a point"
        return "bad number", f"column {column} ({COLUMNS[column - 1]}) is '{token}', not a number{hint}"
    if len(tokens) not in (15, 16):
        return "wrong columns", f"{len(tokens)} columns; a KITTI label has 15, or 16 with a score"
    box = tuple(numbers[3:7])
    fault = box_fault(box)
    if fault and class_key(tokens[0]) != DONT_CARE:
        return fault, f"box ({', '.join(f'{value:g}' for value in box)}) needs left < right and top < bottom"
    return LabelRow(
        name=tokens[0],
        truncation=numbers[0],
        occlusion=numbers[1],
        alpha=numbers[2],
        box=box,
        dimensions=tuple(numbers[7:10]),
        location=tuple(numbers[10:13]),
        rotation_y=numbers[13],
        score=numbers[14] if len(numbers) > 14 else None,
        line=line,
    )


def _numbers(tokens: list[str]) -> list[float] | None:
    """All of a line in one go, since lines are many; None where one of them is no number."""
    # float() also takes "1_000" and "nan", which no label means.
    if "_" in "".join(tokens):
        return None
    try:
        values = list(map(float, tokens))
    except ValueError:
        return None
    return values if all(map(math.isfinite, values)) else None


def pair_folders(
    image_dir: str | os.PathLike,
    label_dir: str | os.PathLike,
    extensions: Sequence[str] = IMAGE_EXTENSIONS,
) -> list[tuple[str, str | None]]:
    """`(image path, label path)` sorted by image name; None where `<stem>.txt` is missing.

    Extensions are compared without case. Raises DataError when a folder cannot be read or has no such image.
    """
    wanted = tuple(extension.lower() for extension in extensions)
    files = _files(image_dir, "image")
    images = sorted(name for name in files if os.path.splitext(name)[1].lower() in wanted)
    if not images:
        found = sorted({os.path.splitext(name)[1] or "(none)" for name in files})
        raise DataError(
            f"no {' '.join(wanted)} images here; "
            + (f"the {len(files)} files have {', '.join(found[:8])}" if files else "the folder is empty"),
            where=str(image_dir),
        )
    labels = {}
    for name in sorted(_files(label_dir, "label"), reverse=True):
        stem, extension = os.path.splitext(name)
        if extension.lower() == ".txt":
            labels[stem] = os.path.join(label_dir, name)
    return [(os.path.join(image_dir, name), labels.get(os.path.splitext(name)[0])) for name in images]


def unread_images(
    image_dir: str | os.PathLike, pairs: Sequence[tuple[str, str | None]], label_dir: str | os.PathLike
) -> list[LabelProblem]:
    """Files beside the images of `pairs` that have a label and are of a type that is not read."""
    paired = {os.path.basename(image) for image, _ in pairs}
    stems = {os.path.splitext(name)[0] for name in paired}
    labels = {stem for stem, extension in map(os.path.splitext, _files(label_dir, "label")) if extension == ".txt"}
    problems = []
    for name in sorted(set(_files(image_dir, "image")) - paired):
        stem, extension = os.path.splitext(name)
        if stem in labels - stems and name != f"{stem}.txt":
            detail = f"{extension or 'a file without suffix'} is no type of image that is read here"
            problems.append(LabelProblem(os.path.join(image_dir, name), None, "other type of image", detail, "image"))
    return problems


def _files(folder: str | os.PathLike, what: str) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if entry.is_file() and not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(f"cannot list the {what} folder: {error.strerror}", where=str(folder)) from error

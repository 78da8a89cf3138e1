"""COCO detection annotations: categories, images and boxes of a JSON file, as label rows in pixels."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass

from ssd.data.audit import LabelProblem
from ssd.data.sample import LabelRow, box_fault
from ssd.errors import DataError
from ssd.spec.config import class_key

# Records have no place for iscrowd. KITTI's occlusion 3, "unknown", makes a crowd difficult, which is how
# evaluation treats it: neither right nor wrong.
CROWD_OCCLUSION = 3.0


@dataclass(frozen=True)
class CocoImage:
    """One entry of `images` with its boxes."""

    file_name: str
    size: tuple[int, int] | None  # height, width as the file states them
    rows: tuple[LabelRow, ...]


@dataclass(frozen=True)
class CocoFile:
    """One annotation file. `categories` are names as written, in the order of their ids."""

    path: str
    categories: tuple[str, ...]
    images: tuple[CocoImage, ...]  # in file order
    problems: tuple[LabelProblem, ...]


def read_file(path: str | os.PathLike) -> CocoFile:
    """Reads a whole annotation file.

    Raises:
        DataError: not readable, not JSON, or not of the detection (instances) kind.
    """
    path = str(path)
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file, object_hook=_without_masks)
    except OSError as error:
        raise DataError(f"cannot read the annotation file: {error.strerror}", where=path) from error
    except json.JSONDecodeError as error:
        raise DataError(f"not valid JSON: {error.msg}", where=f"{path}:{error.lineno}:{error.colno}") from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise DataError("not valid JSON", where=path) from error
    _check_kind(content, path)
    problems: list[LabelProblem] = []
    categories = _categories(content["categories"], path)
    images = _images(content["images"], path, problems)
    rows = _rows(content["annotations"], categories, images, path, problems)
    return CocoFile(
        path=path,
        categories=tuple(dict.fromkeys(categories[number] for number in sorted(categories, key=_order))),
        images=tuple(CocoImage(name, size, tuple(rows[number])) for number, (name, size) in images.items()),
        problems=tuple(problems),
    )


def same_categories(files: Sequence[CocoFile]) -> tuple[str, ...]:
    """The category names that all files share. Raises DataError where they differ."""
    first = files[0]
    known = {class_key(name) for name in first.categories}
    for other in files[1:]:
        names = {class_key(name) for name in other.categories}
        if names != known:
            parts = []
            if known - names:
                parts.append(f"missing here: {', '.join(sorted(known - names)[:8])}")
            if names - known:
                parts.append(f"only here: {', '.join(sorted(names - known)[:8])}")
            raise DataError(f"other categories than in {first.path}; {'; '.join(parts)}", where=other.path)
    return first.categories


def _without_masks(item: dict) -> dict:
    # Masks are most of the file and of no use to a detector of boxes; dropping them here keeps memory small.
    item.pop("segmentation", None)
    return item


def _check_kind(content, path: str) -> None:
    if not isinstance(content, dict):
        raise DataError("not a COCO annotation file: the JSON is not an object", where=path)
    annotations = content.get("annotations")
    first = annotations[0] if isinstance(annotations, list) and annotations else {}
    for key, kind in (("caption", "captions"), ("segments_info", "panoptic"), ("question_id", "questions")):
        if isinstance(first, dict) and key in first and "bbox" not in first:
            raise DataError(
                f"this is a {kind} file, without boxes", where=path, hint="give the instances_*.json of the same images"
            )
    missing = [key for key in ("images", "annotations", "categories") if not isinstance(content.get(key), list)]
    if missing:
        raise DataError(f"not a COCO detection file: no list '{missing[0]}'", where=path)


def _categories(items: list, path: str) -> dict:
    """Category id -> name."""
    categories = {}
    for number, item in enumerate(items):
        if not isinstance(item, dict) or not _is_id(item.get("id")) or not isinstance(item.get("name"), str):
            raise DataError(f"categories[{number}] needs an id and a name", where=path)
        if item["id"] in categories:
            raise DataError(f"category id {item['id']} stands twice", where=path)
        categories[item["id"]] = item["name"].strip()
    if not categories:
        raise DataError("the list of categories is empty", where=path)
    return categories


def _images(items: list, path: str, problems: list[LabelProblem]) -> dict:
    """Image id -> (file name, size or None)."""
    images, names = {}, set()
    for number, item in enumerate(items):
        if not isinstance(item, dict) or not _is_id(item.get("id")) or not isinstance(item.get("file_name"), str):
            problems.append(
                LabelProblem(path, None, "bad image", f"images[{number}] needs an id and a file_name", "image")
            )
        elif item["id"] in images or item["file_name"] in names:
            twice = f"image id {item['id']}" if item["id"] in images else f"file_name {item['file_name']}"
            problems.append(
                LabelProblem(path, None, "duplicate image", f"images[{number}]: {twice} stands twice", "image")
            )
        else:
            size = (item.get("height"), item.get("width"))
            images[item["id"]] = (item["file_name"], size if all(isinstance(side, int) for side in size) else None)
            names.add(item["file_name"])
    return images


def _rows(items: list, categories: dict, images: dict, path: str, problems: list[LabelProblem]) -> dict:
    """Image id -> its label rows."""
    rows = {number: [] for number in images}
    for number, item in enumerate(items):
        if not isinstance(item, dict):
            problems.append(LabelProblem(path, None, "bad annotation", f"annotations[{number}] is not an object"))
            continue
        name = f"annotation {item['id']}: " if _is_id(item.get("id")) else f"annotations[{number}]: "
        image, category = item.get("image_id"), item.get("category_id")
        if not _is_id(image) or image not in rows:
            problems.append(LabelProblem(path, None, "unknown image", f"{name}no image has the id {image}"))
            continue
        if not _is_id(category) or category not in categories:
            problems.append(LabelProblem(path, None, "unknown category", f"{name}no category has the id {category}"))
            continue
        box = item.get("bbox")
        if not isinstance(box, list) or len(box) != 4 or not all(_is_number(value) for value in box):
            problems.append(LabelProblem(path, None, "bad number", f"{name}bbox is {box}, not 4 numbers x, y, w, h"))
            continue
        corners = (float(box[0]), float(box[1]), float(box[0] + box[2]), float(box[1] + box[3]))
        fault = box_fault(corners)
        if fault:
            problems.append(LabelProblem(path, None, fault, f"{name}bbox {box} needs a width and a height above 0"))
            continue
        occlusion = CROWD_OCCLUSION if item.get("iscrowd") else 0.0
        rows[image].append(LabelRow(categories[category], 0.0, occlusion, 0.0, corners, item=name))
    return rows


def _is_id(value) -> bool:
    return isinstance(value, (int, str)) and not isinstance(value, bool)


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e9


def _order(number) -> tuple:
    return (isinstance(number, str), number)

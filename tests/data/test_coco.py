"""COCO annotation files."""

import json

import pytest

from ssd.data import coco
from ssd.data.sample import class_indices, place
from ssd.errors import DataError


def content(**changes):
    base = {
        "images": [{"id": 7, "file_name": "b.jpg", "height": 100, "width": 200}, {"id": "x", "file_name": "a.jpg"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 90, "bbox": [10, 20, 30, 40], "segmentation": [[1, 2]]},
            {"id": 2, "image_id": 7, "category_id": 13, "bbox": [0, 0, 5.5, 6], "iscrowd": 1},
        ],
        "categories": [{"id": 90, "name": "Toothbrush"}, {"id": 13, "name": "stop sign"}],
    }
    return {**base, **changes}


def read(tmp_path, data):
    path = tmp_path / "instances.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return coco.read_file(path)


def test_boxes_become_corners_and_crowds_are_difficult(tmp_path):
    file = read(tmp_path, content())
    assert file.categories == ("stop sign", "Toothbrush")  # in the order of their ids
    assert [(image.file_name, image.size, len(image.rows)) for image in file.images] == [
        ("b.jpg", (100, 200), 2),
        ("a.jpg", None, 0),
    ]
    indices = class_indices(("stop sign", "toothbrush"), (("stopsign", "stop sign"), ("toothbrush", "toothbrush")))
    _, objects, problems = place(file.images[0].rows, (100, 200), indices, "f")
    assert not problems
    assert objects.classes.tolist() == [2, 1]
    assert objects.difficult.tolist() == [False, True]
    assert objects.boxes[0].tolist() == pytest.approx([0.05, 0.2, 0.2, 0.6])


def annotation(**changes):
    return {"id": 5, "image_id": 7, "category_id": 90, "bbox": [1, 2, 3, 4], **changes}


@pytest.mark.parametrize(
    ("item", "kind"),
    [
        (annotation(image_id=8), "unknown image"),
        (annotation(image_id=[7]), "unknown image"),
        (annotation(category_id=1), "unknown category"),
        (annotation(bbox=[1, 2, 3]), "bad number"),
        (annotation(bbox=[1, 2, "3", 4]), "bad number"),
        (annotation(bbox=[1, 2, float("nan"), 4]), "bad number"),
        (annotation(bbox=None), "bad number"),
        (annotation(bbox=[1, 2, 0, 4]), "empty box"),
        (annotation(bbox=[1, 2, 3, -4]), "inverted box"),
        ("text", "bad annotation"),
    ],
)
def test_a_bad_annotation_is_a_problem_and_the_others_stay(tmp_path, item, kind):
    data = content()
    data["annotations"].append(item)
    file = read(tmp_path, data)
    assert len(file.images[0].rows) == 2
    assert [problem.kind for problem in file.problems] == [kind]
    assert item == "text" or "annotation 5" in file.problems[0].detail


@pytest.mark.parametrize(
    ("item", "kind"),
    [
        ({"id": 7, "file_name": "c.jpg"}, "duplicate image"),
        ({"id": 8, "file_name": "a.jpg"}, "duplicate image"),
        ({"id": 8}, "bad image"),
        (3, "bad image"),
    ],
)
def test_a_bad_image_entry_is_a_problem(tmp_path, item, kind):
    data = content()
    data["images"].append(item)
    file = read(tmp_path, data)
    assert len(file.images) == 2 and [(p.kind, p.loses) for p in file.problems] == [(kind, "image")]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("{", "not valid JSON"),
        ("[1]", "not a COCO annotation file"),
        ({"images": [], "annotations": []}, "no list 'categories'"),
        ({"images": [], "annotations": {}, "categories": []}, "no list 'annotations'"),
        (content(annotations=[{"id": 1, "image_id": 7, "caption": "a dog"}]), "captions file"),
        (content(annotations=[{"image_id": 7, "segments_info": []}]), "panoptic file"),
        (content(categories=[]), "categories is empty"),
        (content(categories=[{"id": 1}]), r"categories\[0\]"),
        (content(categories=[{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]), "stands twice"),
    ],
)
def test_other_files_are_refused_by_name(tmp_path, data, said):
    with pytest.raises(DataError, match=said):
        read(tmp_path, data)


def test_files_must_have_the_same_categories_under_any_ids(tmp_path):
    first = read(tmp_path, content())
    other = read(
        tmp_path, content(annotations=[], categories=[{"id": 1, "name": "toothbrush"}, {"id": 2, "name": "Stop Sign"}])
    )
    assert coco.same_categories([first, other]) == ("stop sign", "Toothbrush")
    third = read(tmp_path, content(annotations=[], categories=[{"id": 1, "name": "dog"}]))
    with pytest.raises(DataError, match="only here: dog"):
        coco.same_categories([first, third])

"""KITTI label files and folders."""

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssd.data import kitti
from ssd.data.sample import class_indices, place
from ssd.errors import DataError

GOOD = "car 0.00 0 -1.57 10 20 50.5 60 1.5 1.6 3.9 1.0 1.7 20.0 -1.5"
numbers = st.floats(-1e4, 1e4, allow_nan=False)


def kinds(text):
    rows, problems = kitti.parse_label(text, "000001.txt")
    return len(rows), [(problem.line, problem.kind) for problem in problems]


@given(
    name=st.text("abcXYZ_-0123456789", min_size=1),
    values=st.lists(numbers, min_size=14, max_size=14),
    side=st.tuples(st.floats(0.5, 500), st.floats(0.5, 500)),
    separator=st.sampled_from([" ", "\t", "  "]),
    newline=st.sampled_from(["\n", "\r\n", "\r"]),
)
def test_a_row_comes_back_as_it_was_written(name, values, side, separator, newline):
    values[5:7] = values[3] + side[0], values[4] + side[1]
    line = separator.join([name, *map(repr, values)])
    rows, problems = kitti.parse_label(newline.join(["", line, "", line]), "f.txt")
    assert not problems
    assert [row.line for row in rows] == [2, 4]
    row = rows[0]
    read = [row.truncation, row.occlusion, row.alpha, *row.box, *row.dimensions, *row.location, row.rotation_y]
    assert (row.name, read) == (name, values)


@given(st.text())
def test_no_text_breaks_the_parser_and_no_line_is_lost(text):
    rows, problems = kitti.parse_label(text, "f.txt")
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    content = [number for number, line in enumerate(lines, start=1) if line.strip()]
    assert sorted([row.line for row in rows] + [problem.line for problem in problems]) == content


def test_sixteen_columns_have_a_score():
    rows, problems = kitti.parse_label(GOOD + " 0.87", "f.txt")
    assert rows[0].score == 0.87 and not problems


@pytest.mark.parametrize(
    ("line", "kind", "said"),
    [
        (GOOD.rsplit(" ", 1)[0], "wrong columns", "14 columns"),
        (GOOD + " 0.5 7", "wrong columns", "17 columns"),
        ("car", "wrong columns", "1 columns"),
        (GOOD.replace("car", "traffic light"), "bad number", "must not contain spaces"),
        (GOOD.replace("50.5", "50,5"), "bad number", "column 7 (right) is '50,5'"),
        (GOOD.replace("50.5", "nan"), "bad number", "column 7"),
        (GOOD.replace("50.5", "inf"), "bad number", "column 7"),
        (GOOD.replace("50.5", "1_000"), "bad number", "column 7"),
        (GOOD.replace("-1.57", "left"), "bad number", "column 4 (alpha)"),
        (GOOD.replace("50.5", "5"), "inverted box", "left < right"),
        (GOOD.replace("20 50.5 60", "20 50.5 20"), "empty box", "top < bottom"),
    ],
)
def test_a_bad_line_is_a_problem_and_the_others_stay(line, kind, said):
    rows, problems = kitti.parse_label(f"{GOOD}\n{line}\n{GOOD}\n", "f.txt")
    assert len(rows) == 2
    assert [(problem.file, problem.line, problem.kind) for problem in problems] == [("f.txt", 2, kind)]
    assert said in problems[0].detail


def test_dont_care_rows_may_have_any_box():
    assert kinds("DontCare -1 -1 -10 50 50 20 20 -1 -1 -1 -1000 -1000 -1000 -10") == (1, [])


def test_files_that_are_no_labels(tmp_path):
    (tmp_path / "empty.txt").write_text("\n \n")
    assert kitti.read_label(tmp_path / "empty.txt") == ([], [])
    (tmp_path / "bom.txt").write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert kitti.read_label(tmp_path / "bom.txt")[0][0].name == "car"
    (tmp_path / "image.txt").write_bytes(b"\x89PNG\r\n\xff\xfe")
    for name, kind in (("image.txt", "unreadable label"), ("none.txt", "missing label"), (".", "unreadable label")):
        rows, problems = kitti.read_label(tmp_path / name)
        assert not rows and [(p.kind, p.loses) for p in problems] == [(kind, "image")]


def test_boxes_are_clipped_and_classes_mapped():
    text = "\n".join(
        [
            "Van 0 0 0 -20 10 50 60 0 0 0 0 0 0 0",  # cut by the border
            "car 0 1 0 150 50 199.5 100.4 0 0 0 0 0 0 0",  # half a pixel over it: no word
            "CAR 0 -1 0 0 0 200 100 0 0 0 0 0 0 0",
            "car 0 0 0 300 10 350 60 0 0 0 0 0 0 0",  # outside
            "car 0 0 0 10 10 10.5 60 0 0 0 0 0 0 0",  # half a pixel wide
            "tram 0 0 0 10 10 20 60 0 0 0 0 0 0 0",
            "DontCare -1 -1 -10 10 10 20 60 -1 -1 -1 -1000 -1000 -1000 -10",
        ]
    )
    rows, _ = kitti.parse_label(text, "f.txt")
    kept, objects, problems = place(
        rows, (100, 200), class_indices(("bus", "car"), (("van", "bus"), ("car", "car"))), "f"
    )
    assert [row.line for row in kept] == [1, 2, 3]
    np.testing.assert_allclose(objects.boxes, [[0, 0.1, 0.25, 0.6], [0.75, 0.5, 0.9975, 1], [0, 0, 1, 1]], rtol=1e-6)
    assert objects.classes.tolist() == [1, 2, 2]
    assert objects.difficult.tolist() == [False, True, False]
    assert [(p.line, p.kind, p.loses) for p in problems] == [
        (1, "box outside the image", "clipped"),
        (4, "box outside the image", "object"),
        (5, "empty box", "object"),
        (6, "unmapped class", "object"),
    ]


def test_folders_are_paired_by_stem_whatever_the_case_of_the_extension(tmp_path):
    images, labels = tmp_path / "images", tmp_path / "labels"
    images.mkdir(), labels.mkdir()
    for name in ("b.JPG", "a.png", "c.bmp", "notes.md", ".hidden.png"):
        (images / name).touch()
    for name in ("a.txt", "b.TXT", "z.txt"):
        (labels / name).touch()
    found = kitti.pair_folders(images, labels)
    assert [(os.path.basename(i), label and os.path.basename(label)) for i, label in found] == [
        ("a.png", "a.txt"),
        ("b.JPG", "b.TXT"),
        ("c.bmp", None),
    ]
    with pytest.raises(DataError, match=r"no \.jpeg images here; the 4 files have"):
        kitti.pair_folders(images, labels, [".jpeg"])
    with pytest.raises(DataError, match="cannot list the label folder"):
        kitti.pair_folders(images, tmp_path / "none")

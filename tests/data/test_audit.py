"""The list of what is wrong in the data."""

import csv

from ssd.data import audit
from ssd.data.audit import LabelProblem

PROBLEMS = [
    LabelProblem("a.txt", 3, "empty box", "box (1, 1, 1, 1)"),
    LabelProblem("b,c.txt", None, "missing label", 'no "b,c"', "image"),
    LabelProblem("d.txt", 1, "empty box", "box"),
]


def test_the_csv_has_a_line_for_each(tmp_path):
    audit.write_csv(tmp_path / "p.csv", PROBLEMS)
    with open(tmp_path / "p.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["file", "line", "problem", "detail", "loses"],
        ["a.txt", "3", "empty box", "box (1, 1, 1, 1)", "object"],
        ["b,c.txt", "", "missing label", 'no "b,c"', "image"],
        ["d.txt", "1", "empty box", "box", "object"],
    ]


def test_kinds_are_counted_and_long_lists_cut():
    assert audit.count_kinds(PROBLEMS) == [("empty box", "object", 2), ("missing label", "image", 1)]
    assert audit.first_lines(PROBLEMS, 2) == ["a.txt:3: box (1, 1, 1, 1)", 'b,c.txt: no "b,c"', "... and 1 more"]
    assert len(audit.first_lines(PROBLEMS, 3)) == 3

"""Counts by hand; suspicious labels one of each; copies of files found where they are."""

import dataclasses

import numpy as np
import pytest

from ssd.data.audit import LabelProblem
from ssd.inspection import data_report
from ssd.inspection.duplicates import find_duplicates
from ssd.inspection.labels import suspicious_labels

CLASSES = ("cat", "dog", "eel")
NETWORK = (50, 100)  # half of the images' 100x200


def test_counts_by_class_and_size(make_index):
    index = make_index(
        [
            [(1, (0, 0, 20, 20)), (1, (50, 0, 114, 64)), (2, (0, 0, 96, 96))],
            [],
            [(2, (0, 0, 200, 100))],
        ]
    )
    report = data_report.inspect_data(index, "training", CLASSES, NETWORK, [])
    cat, dog, eel = report.classes
    assert (report.images, report.empty) == (3, 1)
    assert (cat.objects, cat.images, cat.original, cat.network) == (2, 1, (1, 1, 0), (1, 1, 0))
    # 96x96 is large, as in COCO, where an area on the limit counts up; at half size it is 48x48.
    assert (dog.objects, dog.images, dog.original, dog.network) == (2, 2, (0, 0, 2), (0, 2, 0))
    assert (eel.objects, eel.median) == (0, None)
    assert dog.median == pytest.approx((74, 49), abs=1e-4)
    text = data_report.text(report, "list.csv")
    assert "no objects of eel: nothing to learn from" in text
    assert "3 images, 1 without objects, 4 objects" in text
    assert data_report.as_json(report)["classes"]["eel"]["median_network_px"] is None


def test_uneven_classes_are_told(make_index):
    index = make_index([[(1, (0, 0, 50, 50))] * 1] * 10 + [[(2, (0, 0, 50, 50))]])
    report = data_report.inspect_data(index, "training", CLASSES, NETWORK, [])
    assert "uneven: cat has 10.0 times as many objects as dog" in data_report.text(report, "x")


def kinds(problems: list[LabelProblem]) -> list[tuple[str, str]]:
    return [(problem.file, problem.kind) for problem in problems]


def test_one_of_each_suspicious_label(make_index):
    index = make_index(
        [
            [(1, (10, 10, 11.5, 40))],  # 0.75 px wide in the network, 20 times as high
            [(1, (10, 10, 17, 40))],  # 3.5 px
            [(1, (0, 0, 200, 99))],
            [(1, (0, 0, 100, 10)), (2, (0, 40, 79, 50))],  # 10:1 and 7.9:1
            [(1, (50, 50, 90, 90)), (1, (51, 50, 90, 90))],
            [(1, (50, 50, 90, 90)), (3, (50, 50, 90, 91))],
            [(1, (50, 50, 90, 90)), (1, (60, 50, 100, 90))],  # IoU 0.6: two cats
        ]
    )
    found = suspicious_labels(index, CLASSES, NETWORK)
    assert kinds(found) == [
        ("0.jpg", "under 1 px in the network"),
        ("0.jpg", "long and thin"),
        ("1.jpg", "under 4 px in the network"),
        ("2.jpg", "covers the image"),
        ("3.jpg", "long and thin"),
        ("4.jpg", "labelled twice"),
        ("5.jpg", "two classes for one box"),
    ]
    assert "eel" in found[-1].detail
    difficult = np.zeros(len(index.classes), bool)
    difficult[-1] = True
    hard = suspicious_labels(dataclasses.replace(index, difficult=difficult), CLASSES, NETWORK)
    assert kinds(hard)[-1] == ("6.jpg", "difficult")


def test_lists_are_capped_and_name_the_file_with_the_rest(make_index):
    index = make_index([[(1, (0, 0, 200, 100))]] * 8)
    report = data_report.inspect_data(index, "training", CLASSES, NETWORK, [])
    text = data_report.text(report, "all.csv")
    assert "8 x covers the image, in 8 images" in text
    assert "... and 3 more in all.csv" in text
    assert len(report.findings) == 8


def test_copies_are_found_within_and_between(make_index, tmp_path):
    def files(folder: str, contents: list[bytes]) -> list[str]:
        (tmp_path / folder).mkdir()
        paths = [tmp_path / folder / f"{number}.jpg" for number in range(len(contents))]
        for path, content in zip(paths, contents, strict=True):
            path.write_bytes(content)
        return [str(path) for path in paths]

    # Same length, other bytes; a copy; a file of its own; the first one again by its name.
    ours = files("training", [b"aaaa", b"bbbb", b"aaaa", b"ccccc"])
    theirs = files("validation", [b"ddddd", b"bbbb", b"ee"])
    box, other = [(1, (0, 0, 50, 50))], [(1, (0, 0, 50, 60))]
    training = make_index([box, box, other, box, box], names=[*ours, ours[0]])
    validation = make_index([box, box, box], names=theirs)
    found = find_duplicates(training, validation)
    assert found.within == ((0, 2, 4),)
    assert found.between == (((1,), (1,)),)
    within, between = data_report.repeated_images(found, training, validation)
    assert kinds(within) == [(ours[2], "duplicate"), (ours[0], "named twice")]
    assert within[0].detail == f"the same file as {ours[0]}, with other labels"
    assert kinds(between) == [(theirs[1], "in the training data too")]
    assert between[0].detail == f"the same file as {ours[1]} of the training data"
    assert find_duplicates(training, None).between == ()

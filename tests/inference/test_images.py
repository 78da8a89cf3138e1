import logging

import pytest

from ssd.errors import InputError
from ssd.inference.images import find_images, output_names


@pytest.fixture
def shots(tmp_path):
    for name in ("b.PNG", "a.jpg", "c.jpeg", "notes.txt", ".hidden.jpg", "deep/d.bmp", "deep/a.jpg"):
        path = tmp_path / "shots" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "shots"


def names(paths):
    return [path.name for path in paths]


def test_a_file(shots):
    assert names(find_images(str(shots / "a.jpg"))) == ["a.jpg"]


def test_a_folder_is_flat_and_sorted(shots):
    assert names(find_images(str(shots))) == ["a.jpg", "b.PNG", "c.jpeg"]


def test_a_pattern_takes_images_only(shots):
    assert names(find_images(str(shots / "*"))) == ["a.jpg", "b.PNG", "c.jpeg"]
    assert names(find_images(str(shots / "**/*.bmp"))) == ["d.bmp"]


def test_a_file_with_a_pattern_in_its_name(tmp_path):
    (tmp_path / "shot[1].jpg").touch()
    assert names(find_images(str(tmp_path / "shot[1].jpg"))) == ["shot[1].jpg"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing", "no such file or folder"),
        ("shots/notes.txt", "the suffix is none of .jpg"),
        ("shots/*.gif", "no image .* matches the pattern"),
        ("shots/*.txt", "1 other files"),
        ("empty", "no image in this folder"),
        ("outer", "subfolders are not searched"),
    ],
)
def test_nothing_to_read(shots, text, message):
    (shots.parent / "empty").mkdir()
    (shots.parent / "outer/inner").mkdir(parents=True)
    with pytest.raises(InputError, match=message):
        raise InputError(str(_error(shots.parent / text)))


def _error(path):
    with pytest.raises(InputError) as caught:
        find_images(str(path))
    return caught.value


def test_outputs_have_the_names_of_the_images(shots, tmp_path):
    outputs = output_names(find_images(str(shots)), tmp_path / "out")
    assert [str(output.picture.relative_to(tmp_path)) for output in outputs][:2] == [
        "out/images_annotated/a.jpg",
        "out/images_annotated/b.PNG",
    ]
    assert [output.label.name for output in outputs] == ["a.txt", "b.txt", "c.txt"]


def test_images_that_differ_in_the_suffix_keep_it_in_their_labels(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("ssd"), "propagate", True)
    paths = [tmp_path / name for name in ("a.jpg", "a.png", "b.jpg")]
    outputs = output_names(paths, tmp_path / "out")
    assert [output.label.name for output in outputs] == ["a.jpg.txt", "a.png.txt", "b.txt"]
    assert "labels/a.jpg.txt, labels/a.png.txt" in caplog.text


def test_the_same_name_in_two_folders_is_refused(shots, tmp_path):
    with pytest.raises(InputError, match=r"both be written to images_annotated/a\.jpg"):
        output_names(find_images(str(shots / "**/*.jpg")), tmp_path / "out")


def test_labels_never_share_a_name(tmp_path):
    paths = [tmp_path / name for name in ("a.jpg", "a.png", "a.jpg.bmp")]
    with pytest.raises(InputError, match=r"labels/a\.jpg\.txt"):
        output_names(paths, tmp_path / "out")


@pytest.mark.parametrize("images", ["out", "out/images_annotated", "out/labels"])
def test_the_images_are_never_written_over(tmp_path, images):
    (tmp_path / images).mkdir(parents=True)
    with pytest.raises(InputError, match="-r/--results_dir"):
        output_names([tmp_path / images / "a.jpg"], tmp_path / "out")
    (tmp_path / "link").symlink_to(tmp_path / "out")
    with pytest.raises(InputError, match="-r/--results_dir"):
        output_names([tmp_path / images / "a.jpg"], tmp_path / "link")

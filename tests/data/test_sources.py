"""The index over KITTI folders and TFRecords: what is found, what is left out, what is refused."""

import io
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from ssd.data import manifest, records
from ssd.data.sample import LabelRow, class_indices, place
from ssd.data.sources import index_sources
from ssd.errors import DataError, Problems
from ssd.spec.config import Dataset, DataSource

CLASSES = ("car", "person")
MAPPING = (("car", "car"), ("pedestrian", "person"), ("van", "car"))
WIDTH, HEIGHT = 80, 60


def dataset(include_difficult=True) -> Dataset:
    return Dataset((), (), CLASSES, MAPPING, include_difficult)


def image_bytes(kind="PNG", size=(WIDTH, HEIGHT), seed=0, **options) -> bytes:
    stream = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(noise).save(stream, kind, **options)
    return stream.getvalue()


def line(name="car", box=(8, 6, 40, 30), occlusion="0"):
    return f"{name} 0 {occlusion} 0 {' '.join(map(str, box))} 0 0 0 0 0 0 0\n"


def kitti(folder, samples: dict[str, str], images: dict[str, bytes] | None = None) -> DataSource:
    """Writes `stem: label text` with a PNG for each, or with the given images."""
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    for number, (stem, text) in enumerate(samples.items()):
        (folder / "labels" / f"{stem}.txt").write_text(text)
        if images is None:
            (folder / "images" / f"{stem}.png").write_bytes(image_bytes(seed=number))
    for name, contents in (images or {}).items():
        (folder / "images" / name).write_bytes(contents)
    return DataSource(image_dir=str(folder / "images"), label_dir=str(folder / "labels"))


def payload(rows: list[LabelRow], image: bytes, frame_id="images/a") -> bytes:
    mapping = class_indices(CLASSES, MAPPING)
    kept, objects, _ = place(rows, (HEIGHT, WIDTH), mapping, "a.txt")
    return records.encode_example(frame_id=frame_id, image=image, size=(HEIGHT, WIDTH), rows=kept, objects=objects)


def row(name="car", box=(8.0, 6.0, 40.0, 30.0), occlusion=0.0) -> LabelRow:
    return LabelRow(name, 0.0, occlusion, 0.0, box)


def shard(path, payloads: list[bytes]) -> DataSource:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(records.frame(part) for part in payloads))
    return DataSource(tfrecords=str(path))


def index(*sources, purpose="training", **changes):
    return index_sources(sources, dataset(**changes), purpose)


def test_folders_and_records_mix_in_one_index(tmp_path):
    first = kitti(tmp_path / "a", {"000": line() + line("pedestrian", (0, 0, 80, 60)), "001": ""})
    picture = image_bytes("JPEG", seed=9)
    second = shard(tmp_path / "r" / "train-fold-000-of-001-shard-00000-of-00001", [payload([row("van")], picture)])
    third = kitti(tmp_path / "b", {"000": line("Car")}, {"000.JPG": image_bytes("JPEG", seed=4)})
    found = index(first, second, third)
    assert len(found) == 4
    assert found.counts.tolist() == [2, 0, 1, 1]
    assert found.classes.tolist() == [1, 2, 1, 1]
    np.testing.assert_allclose(found.objects(0).boxes, [[0.1, 0.1, 0.5, 0.5], [0, 0, 1, 1]], atol=1e-6)
    np.testing.assert_allclose(found.objects(2).boxes, [[0.1, 0.1, 0.5, 0.5]], atol=1e-6)
    assert found.sizes.tolist() == [[HEIGHT, WIDTH]] * 4
    assert found.read(0) == image_bytes(seed=0)
    assert found.read(2) == picture
    assert found.read(3) == image_bytes("JPEG", seed=4)
    assert found.names[1].endswith("a/images/001.png") and found.names[2].endswith("00001: images/a")


@pytest.mark.parametrize(
    "pattern", ["out/train*", "out/train", "out", "out/train-fold-000-of-001-shard-00000-of-00002"]
)
def test_records_by_glob_prefix_folder_and_file(tmp_path, pattern):
    for number in range(2):
        shard(
            tmp_path / "out" / f"train-fold-000-of-001-shard-0000{number}-of-00002", [payload([row()], image_bytes())]
        )
    found = index(DataSource(tfrecords=str(tmp_path / pattern)))
    assert len(found) == (1 if "00002" in pattern else 2)


def test_many_records_of_a_shard_are_read_by_their_offsets(tmp_path):
    pictures = [image_bytes(seed=number) for number in range(7)]
    source = shard(tmp_path / "r", [payload([row()], picture, f"f/{n}") for n, picture in enumerate(pictures)])
    found = index(source)
    assert [found.read(number) for number in range(7)] == pictures
    assert found.names[3] == f"{tmp_path / 'r'}: f/3"


def test_difficult_objects_are_left_out_of_training_only_when_the_spec_says_so(tmp_path):
    text = line() + line(occlusion="1") + line(occlusion="2.0") + line(occlusion="-1") + line(occlusion="0.0")
    source = kitti(tmp_path, {"000": text, "001": line(occlusion="3")})
    assert index(source).difficult.tolist() == [False, True, True, False, False, True]
    assert index(source, include_difficult=False).counts.tolist() == [3, 0]
    assert index(source, include_difficult=False, purpose="validation").counts.tolist() == [5, 1]
    only = kitti(tmp_path / "only", {"000": line(occlusion="1")})
    with pytest.raises(DataError, match="all 1 labelled objects are marked difficult"):
        index(only, include_difficult=False)


def test_sizes_and_boxes_are_those_of_the_upright_image(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = image_bytes("JPEG", (60, 80), exif=exif)
    found = index(kitti(tmp_path, {"a": line(box=(40, 30, 80, 60))}, {"a.jpg": lying}))
    assert found.sizes.tolist() == [[60, 80]] and found.orientations.tolist() == [6]
    np.testing.assert_allclose(found.boxes, [[0.5, 0.5, 1, 1]])


def test_no_image_is_held_in_memory(tmp_path):
    large = image_bytes("BMP", (400, 300))  # 360 kB
    samples = {f"{number:03d}": line() for number in range(40)}
    folder = kitti(tmp_path / "k", samples, {f"{stem}.bmp": large for stem in samples})
    file = shard(tmp_path / "r", [payload([row()], large, f"f/{number}") for number in range(40)])
    index(folder)
    tracemalloc.start()
    found = index(folder, file)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found) == 80
    assert held < 200_000  # of 29 MB on disk


def test_what_is_left_out_is_counted_and_the_first_named(tmp_path, caplog, monkeypatch):
    import logging

    monkeypatch.setattr(logging.getLogger("ssd"), "propagate", True)
    texts = {
        "000": line() + line(box=(40, 6, 8, 30)) + "car 0 0\n",
        "001": line("truck") * 3 + line("DontCare"),
        "002": line(box=(100, 100, 120, 130)),
        "003": line(),
        "004": line(),
        "005": line(),
        "006": line(box=("x", 1, 2, 3)),
    }
    source = kitti(tmp_path, texts)
    images = tmp_path / "images"
    (images / "003.png").write_bytes(b"no image")
    (images / "004.png").write_bytes(image_bytes()[:-40])
    (images / "005.png").write_bytes(b"")
    (images / "no_label.png").write_bytes(image_bytes())
    with caplog.at_level(logging.WARNING, "ssd"):
        found = index(source)
    assert len(found) == 4 and found.counts.tolist() == [1, 0, 0, 0]
    said = caplog.text
    assert "3 x unreadable image (image skipped)" in said and "1 x missing label (image skipped)" in said
    assert "000.txt:2: " in said and "... and 3 more" in said
    assert "not in target_class_mapping: truck 3" in said and "DontCare" not in said


def test_a_labelled_image_of_another_type_is_named(tmp_path, caplog, monkeypatch):
    import logging

    monkeypatch.setattr(logging.getLogger("ssd"), "propagate", True)
    images = {"a.png": image_bytes(), "b.tif": image_bytes("TIFF"), "notes.md": b"", "a.json": b""}
    source = kitti(tmp_path, {"a": line(), "b": line()}, images)
    with caplog.at_level(logging.WARNING, "ssd"):
        assert len(index(source)) == 1
    assert "1 x other type of image (image skipped)" in caplog.text
    assert "b.tif: .tif is no type of image that is read here" in caplog.text


def refused(*sources, **changes) -> str:
    with pytest.raises((DataError, Problems)) as caught:
        index(*sources, **changes)
    assert caught.value.exit_code == 2
    text = str(caught.value)
    assert "Traceback" not in text and "Error" not in text
    return text


def test_no_sources_at_all():
    assert "names no training data" in refused()


def test_a_missing_image_folder(tmp_path):
    source = kitti(tmp_path, {"a": line()})
    assert "cannot list the image folder" in refused(DataSource(str(tmp_path / "none"), source.label_dir))


def test_a_missing_label_folder(tmp_path):
    source = kitti(tmp_path, {"a": line()})
    assert "cannot list the label folder" in refused(DataSource(source.image_dir, str(tmp_path / "none")))


def test_a_source_without_labels(tmp_path):
    assert "needs tfrecords_path, or" in refused(DataSource(image_dir=str(tmp_path)))


def test_an_empty_image_folder(tmp_path):
    source = kitti(tmp_path, {"a": line()}, {})
    assert "the folder is empty" in refused(source)


def test_a_folder_without_images(tmp_path):
    source = kitti(tmp_path, {"a": line()}, {"a.webp": b"x", "b.txt": b""})
    assert ".txt, .webp" in refused(source)


def test_labels_that_belong_to_other_images(tmp_path):
    source = kitti(tmp_path, {"a": line()}, {"b.png": image_bytes(), "c.png": image_bytes()})
    assert "none of the 2 images" in refused(source)


def test_only_broken_images(tmp_path):
    source = kitti(tmp_path, {"a": line(), "b": line()}, {"a.png": b"x", "b.jpg": image_bytes("JPEG")[:400]})
    assert "no training image can be used" in refused(source)


def test_nothing_survives_the_mapping_and_a_table_says_what_was_there(tmp_path):
    source = kitti(tmp_path, {"a": line("truck") * 2, "b": line("tram")})
    text = refused(source)
    assert (
        "none of the 3 labelled objects in 2 training images has a class of target_class_mapping (car, person)" in text
    )
    assert [part.split() for part in text.splitlines()[-3:]] == [
        ["label", "class", "objects"],
        ["truck", "-", "2"],
        ["tram", "-", "1"],
    ]


def test_only_empty_label_files(tmp_path):
    assert "the label files are empty" in refused(kitti(tmp_path, {"a": "", "b": "\n"}))


def test_no_records_match(tmp_path):
    assert "no TFRecord files match" in refused(DataSource(tfrecords=str(tmp_path / "train*")))


def test_a_file_that_is_no_record_file(tmp_path):
    (tmp_path / "train").write_bytes(b"hello world, this is not a record file")
    assert "no TFRecord file" in refused(DataSource(tfrecords=str(tmp_path / "train")))


def test_a_record_file_cut_off(tmp_path):
    source = shard(tmp_path / "r", [payload([row()], image_bytes())] * 3)
    (tmp_path / "r").write_bytes((tmp_path / "r").read_bytes()[:-100])
    assert "record 2: the file is cut off" in refused(source)


def test_a_damaged_record(tmp_path):
    source = shard(tmp_path / "r", [payload([row()], image_bytes())] * 2)
    contents = bytearray((tmp_path / "r").read_bytes())
    contents[len(contents) // 4] ^= 1
    (tmp_path / "r").write_bytes(contents)
    assert "is damaged (checksum)" in refused(source)


def test_a_record_with_a_class_that_the_spec_does_not_have(tmp_path):
    source = shard(tmp_path / "r", [payload([row()], image_bytes()), payload([row("pedestrian")], image_bytes())])
    with pytest.raises(DataError) as caught:
        index_sources([source], Dataset((), (), ("car",), (("car", "car"),), True), "training")
    assert "record 1: class id 2, but target_class_mapping has 1 classes" in str(caught.value)


def test_records_made_for_other_classes(tmp_path):
    source = shard(tmp_path / "train-fold-000-of-001-shard-00000-of-00001", [payload([row()], image_bytes())])
    made = manifest.Manifest(("bicycle", "car"), (), None, 1, (), (), "")
    manifest.write(tmp_path / "train", made)
    assert "made for other classes" in refused(source)


def test_a_record_that_is_no_example(tmp_path):
    assert "record 0" in refused(shard(tmp_path / "r", [b"\xff\xff not an example"]))


def test_what_is_wrong_with_several_sources_is_said_at_once(tmp_path):
    good = kitti(tmp_path / "g", {"a": line()})
    text = refused(DataSource(tfrecords=str(tmp_path / "x")), good, DataSource(str(tmp_path / "y"), good.label_dir))
    assert len(text.splitlines()) >= 2 and "no TFRecord files match" in text and "cannot list" in text

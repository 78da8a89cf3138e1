"""Kept images: the same pixels, room that is not there, changed files, killed runs, runs side by side."""

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from ssd.data import cache
from ssd.data.pipeline import Loader
from ssd.data.sources import index_sources
from ssd.errors import DataError, InputError
from ssd.spec.config import Augmentation, Dataset, DataSource

SIZES = ((70, 50), (33, 90), (120, 40), (64, 48))
ROW = "thing 0 0 0 2 2 20 30 0 0 0 0 0 0 0\n"


def picture(size, kind, seed, **options) -> bytes:
    stream = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(noise).save(stream, kind, **options)
    return stream.getvalue()


@pytest.fixture
def source(tmp_path):
    """Four images: PNG, JPEG, a JPEG that lies on its side, BMP."""
    exif = Image.Exif()
    exif[0x0112] = 6
    options = (("PNG", {}), ("JPEG", {"quality": 95}), ("JPEG", {"quality": 95, "exif": exif}), ("BMP", {}))
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    for number, (size, (kind, more)) in enumerate(zip(SIZES, options, strict=True)):
        suffix = {"PNG": "png", "JPEG": "jpg", "BMP": "bmp"}[kind]
        (tmp_path / "images" / f"{number}.{suffix}").write_bytes(picture(size, kind, number, **more))
        (tmp_path / "labels" / f"{number}.txt").write_text(ROW)
    return DataSource(image_dir=str(tmp_path / "images"), label_dir=str(tmp_path / "labels"))


def loader(source, kept, seed=3, **changes) -> Loader:
    base = {"width": 64, "height": 48, "channels": 3, "mean": (103.939, 116.779, 123.68)}
    moves = {"crop_scale": (0.3, 1.0), "crop_aspect_ratio": (0.5, 2.0), "zoom_out": (1.0, 4.0), "flip": 0.5}
    colour = {"brightness": 32.0, "contrast": 0.5, "saturation": 0.5, "hue": 18.0}
    dataset = Dataset((source,), (), ("thing",), (("thing", "thing"),), True)
    augmentation = Augmentation(**{**base, **moves, **colour, **changes})
    made = Loader(index_sources([source], dataset, "training"), augmentation, batch_size=3, seed=seed)
    if kept is not None:
        made.keep_decoded(kept)
    return made


def kept_images(folder_or_memory: Loader) -> list[np.ndarray]:
    read = tf.function(folder_or_memory._cache.image)  # as pipelines read it
    return [read(tf.constant(number)).numpy() for number in range(len(SIZES))]


def upright(path) -> np.ndarray:
    return np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))


def decoded_again(monkeypatch) -> list[int]:
    """The numbers of the images that loaders decode into a cache from now on."""
    seen, original = [], Loader._decoded

    def watched(self, indices):
        seen.extend(indices)
        return original(self, indices)

    monkeypatch.setattr(Loader, "_decoded", watched)
    return seen


@pytest.fixture(params=["memory", "disk"])
def kept(request, tmp_path):
    return "memory" if request.param == "memory" else tmp_path / "cache"


def test_what_is_kept_is_the_upright_picture(source, kept):
    found = kept_images(loader(source, kept))
    for number, path in enumerate(sorted(os.scandir(source.image_dir), key=lambda entry: entry.name)):
        np.testing.assert_array_equal(found[number], upright(path.path))


def test_evaluation_sees_the_same_pixels_with_and_without(source, kept):
    for (a, truth), (b, expected) in zip(
        loader(source, kept, seed=None).epoch(0), loader(source, None, seed=None).epoch(0), strict=True
    ):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(truth["boxes"], expected["boxes"])


def test_training_sees_the_same_with_and_without(source, kept):
    """To the chroma at the edge of a crop, for which a JPEG decoded in part lacks a neighbour."""
    quiet = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
    with_cache, without = loader(source, kept, **quiet), loader(source, None, **quiet)
    for epoch in range(3):
        for (a, truth), (b, expected) in zip(with_cache.epoch(epoch), without.epoch(epoch), strict=True):
            assert truth["index"].numpy().tolist() == expected["index"].numpy().tolist()
            np.testing.assert_array_equal(truth["boxes"], expected["boxes"])
            difference = np.abs(a["rgb"].numpy().astype(int) - b["rgb"].numpy())
            assert difference.max() < 60 and np.mean(difference > 2) < 0.1


def test_a_second_run_decodes_nothing_and_a_changed_image_anew(source, tmp_path, monkeypatch):
    first = loader(source, tmp_path / "cache")
    before = kept_images(first)
    seen = decoded_again(monkeypatch)
    assert all(map(np.array_equal, kept_images(loader(source, tmp_path / "cache")), before)) and seen == []
    path = os.path.join(source.image_dir, "1.jpg")
    with open(path, "wb") as file:
        file.write(picture((80, 44), "JPEG", 77))
    second = loader(source, tmp_path / "cache")
    assert seen == [1]
    np.testing.assert_array_equal(kept_images(second)[1], upright(path))
    for number in (0, 2, 3):
        np.testing.assert_array_equal(kept_images(second)[number], before[number])
    # The run that began earlier goes on with what it had.
    assert all(map(np.array_equal, kept_images(first), before))


@pytest.mark.parametrize("damage", ["pixels cut off", "index cut off", "index of something else", "pixels gone"])
def test_a_damaged_folder_is_filled_again(source, tmp_path, monkeypatch, damage):
    first = loader(source, tmp_path / "cache")
    before = kept_images(first)
    pixels, index = tmp_path / "cache" / cache.PIXELS, tmp_path / "cache" / cache.INDEX
    if damage == "pixels cut off":
        pixels.write_bytes(pixels.read_bytes()[:-100])
    elif damage == "pixels gone":
        pixels.unlink()
    else:
        index.write_text(index.read_text()[:-9] if damage == "index cut off" else json.dumps({"format": "other"}))
    seen = decoded_again(monkeypatch)
    again = loader(source, tmp_path / "cache")
    assert seen == [0, 1, 2, 3]
    assert all(map(np.array_equal, kept_images(again), before))


def test_pixels_that_something_else_wrote_are_decoded_again(source, tmp_path, monkeypatch, caplog):
    before = kept_images(loader(source, tmp_path / "cache"))
    content = json.loads((tmp_path / "cache" / cache.INDEX).read_text())
    start = next(kept[0] for key, kept in content["images"].items() if "2.jpg" in key)
    with open(tmp_path / "cache" / cache.PIXELS, "r+b") as file:
        file.seek(start + 500)
        file.write(bytes(3))
    seen = decoded_again(monkeypatch)
    assert all(map(np.array_equal, kept_images(loader(source, tmp_path / "cache")), before)) and seen == [2]
    assert "something else wrote into it; decoding 1 of its 4 images again" in caplog.text
    # What is as its index says is not looked at again.
    monkeypatch.setattr(cache, "_whole", lambda *_: pytest.fail("checked"))
    assert all(map(np.array_equal, kept_images(loader(source, tmp_path / "cache")), before)) and seen == [2]


def test_a_run_under_way_keeps_its_pixels_whatever_was_damaged(source, tmp_path):
    """The last image's place, which another run finds damaged, is not given to other images."""
    first = loader(source, tmp_path / "cache")
    before = kept_images(first)
    with open(tmp_path / "cache" / cache.PIXELS, "r+b") as file:
        file.seek(-500, os.SEEK_END)
        file.write(bytes(3))
    damaged = kept_images(first)
    assert [np.array_equal(*pair) for pair in zip(damaged, before, strict=True)] == [True] * 3 + [False]
    for number in range(4):
        path = os.path.join(source.image_dir, f"{number}.{('png', 'jpg', 'jpg', 'bmp')[number]}")
        with open(path, "wb") as file:
            file.write(picture((90, 80), "PNG", 50 + number))
    second = loader(source, tmp_path / "cache")
    assert all(map(np.array_equal, kept_images(first), damaged))
    np.testing.assert_array_equal(kept_images(second)[3], upright(os.path.join(source.image_dir, "3.bmp")))


KILLED = """
import os, signal, sys
sys.path[:0] = {path!r}
from pathlib import Path
from ssd.data import cache
import test_cache as here
cache.SAVE_EVERY = 1
save = cache.files.write_text
def write_text(path, text):
    save(path, text)
    if len(__import__("json").loads(text)["images"]) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
cache.files.write_text = write_text
here.loader(here.DataSource({images!r}, {labels!r}), Path({folder!r}))
"""


def test_a_killed_run_leaves_what_it_had_saved(source, tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    path = [os.path.dirname(__file__), *sys.path]
    script = KILLED.format(path=path, images=source.image_dir, labels=source.label_dir, folder=str(folder))
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -signal.SIGKILL
    with open(folder / cache.PIXELS, "ab") as file:
        file.write(b"half an image")
    seen = decoded_again(monkeypatch)
    found = kept_images(loader(source, folder))
    assert seen == [2, 3]
    np.testing.assert_array_equal(found[0], upright(os.path.join(source.image_dir, "0.png")))
    np.testing.assert_array_equal(found[3], upright(os.path.join(source.image_dir, "3.bmp")))


def test_runs_side_by_side_decode_once(source, tmp_path):
    script = KILLED.replace("== 2:", "< 0:").format(
        path=[os.path.dirname(__file__), *sys.path],
        images=source.image_dir,
        labels=source.label_dir,
        folder=str(tmp_path / "cache"),
    )
    runs = [subprocess.Popen([sys.executable, "-c", script]) for _ in range(2)]
    assert [run.wait() for run in runs] == [0, 0]
    content = json.loads((tmp_path / "cache" / cache.INDEX).read_text())
    assert len(content["images"]) == 4
    ends = [start + length for start, length, _ in content["images"].values()]
    assert (tmp_path / "cache" / cache.PIXELS).stat().st_size == max(ends) == sum(cache._lengths(np.array(
        [(h, w) for w, h in SIZES])))  # fmt: skip


def test_memory_that_is_not_there_is_refused(source, monkeypatch):
    monkeypatch.setattr(cache, "available_memory", lambda: 30_000)
    with pytest.raises(DataError, match=r"--cache memory: 4 decoded images need .* of memory are free") as caught:
        loader(source, "memory")
    assert "--cache disk" in str(caught.value)


def test_a_disk_that_is_full_is_refused(source, tmp_path, monkeypatch):
    usage = cache.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda folder: usage._replace(free=1000))
    with pytest.raises(DataError, match=r"4 decoded images need .* are free there"):
        loader(source, tmp_path / "there" / "cache")
    assert not (tmp_path / "there").exists()


def test_a_folder_that_cannot_be_made(source, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"--cache .*: this is a file"):
        loader(source, tmp_path / "file")


def test_a_folder_with_other_files_is_no_cache(source):
    with pytest.raises(InputError, match=r"--cache .*images: there are other files than a cache's in it: "):
        loader(source, Path(source.image_dir))
    assert not os.path.exists(os.path.join(source.image_dir, cache.LOCK))


def test_an_image_that_does_not_decode_is_named(source, kept):
    path = os.path.join(source.image_dir, "2.jpg")
    contents = bytearray(picture((120, 40), "PNG", 1))
    contents[len(contents) // 2 : len(contents) // 2 + 300] = bytes(300)
    with open(path, "wb") as file:
        file.write(contents)
    with pytest.raises(DataError, match=r"2.jpg: the image is damaged"):
        loader(source, kept)
    if kept != "memory":  # what does decode is there for the next run
        images = json.loads((kept / cache.INDEX).read_text())["images"]
        assert images and all("2.jpg" not in key for key in images)


def test_beyond_two_gibibytes(tmp_path):
    """Bytes are counted in 64 bits: a sparse file with an image at its far end."""
    rgb = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    start = 5 * 2**30
    file = open(tmp_path / "sparse", "w+b")  # noqa: SIM115
    file.seek(start)
    file.write(rgb.tobytes())
    file.flush()
    found = cache.PixelCache(file, [start], np.array([[30, 40]]))
    np.testing.assert_array_equal(found.image(tf.constant(0)), rgb)
    window = found.window(tf.constant(0), tf.constant([3, 4, 10, 20]))
    np.testing.assert_array_equal(window, rgb[3:13, 4:24])

"""Pictures to calibrate with: which are drawn, what they become, and tensor files there and back."""

import h5py
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("tensorflow", reason="images are read through TensorFlow")

from ssd.data.calibration import choose_images, image_batches, read_tensors, write_tensors
from ssd.errors import DataError, InputError, Problems
from ssd.spec.config import Augmentation


def augmentation(channels=3, mean=(103.9, 116.8, 123.7)):
    off = dict.fromkeys(("brightness", "contrast", "saturation", "hue", "flip"), 0.0)
    still = {"crop_scale": (1.0, 1.0), "crop_aspect_ratio": (1.0, 1.0), "zoom_out": (1.0, 1.0)}
    return Augmentation(width=12, height=8, channels=channels, mean=mean, **off, **still)


@pytest.fixture
def folder(tmp_path):
    """Nine images of the network's size among other files."""
    rng = np.random.default_rng(0)
    for index in range(9):
        pixels = rng.integers(0, 256, (8, 12, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{index}.{('png', 'bmp', 'PNG')[index % 3]}")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "folder.png").mkdir()
    return tmp_path


def test_images_are_drawn_without_repetition_by_the_seed_in_the_order_of_their_names(folder):
    drawn = choose_images(str(folder), 5, seed=1)
    assert drawn == sorted(drawn) and len(set(drawn)) == 5
    assert choose_images(str(folder), 5, seed=1) == drawn
    assert any(choose_images(str(folder), 5, seed=seed) != drawn for seed in range(2, 6))
    everything = choose_images(str(folder), 9, seed=3)
    assert [path.name for path in everything] == sorted(path.name for path in folder.iterdir() if path.stem.isdigit())


def test_a_missing_folder_and_too_few_images_are_refused(folder, tmp_path):
    with pytest.raises(InputError, match=r"--cal_image_dir .*nowhere: no such folder"):
        choose_images(str(tmp_path / "nowhere"), 1, seed=0)
    with pytest.raises(InputError, match="no such folder"):
        choose_images(str(folder / "notes.txt"), 1, seed=0)
    with pytest.raises(InputError, match=r"9 images \(.*\.png.*\), 10 are needed") as caught:
        choose_images(str(folder), 10, seed=0)
    assert "--batches" in caught.value.hint


@pytest.mark.parametrize("channels", [3, 1])
def test_batches_are_what_the_network_takes(channels, folder):
    mean = (103.9, 116.8, 123.7) if channels == 3 else (110.5,)
    paths = choose_images(str(folder), 5, seed=0)
    batches = list(image_batches(paths, augmentation(channels, mean), 2))
    assert [batch.shape for batch in batches] == [(2, 8, 12, channels), (2, 8, 12, channels), (1, 8, 12, channels)]
    for found, path in zip(np.concatenate(batches), paths, strict=True):
        rgb = np.asarray(Image.open(path).convert("RGB"), np.float64)
        pixels = rgb[..., ::-1] if channels == 3 else rgb @ np.array([[0.299], [0.587], [0.114]])
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, pixels - np.array(mean), atol=1e-3)


def test_images_that_cannot_be_read_are_told_after_the_others_all_at_once(folder):
    paths = choose_images(str(folder), 9, seed=0)
    paths[2].write_bytes(b"nothing")
    whole = paths[6].read_bytes()
    paths[6].write_bytes(whole[: len(whole) // 2])
    seen = []
    with pytest.raises(Problems) as caught:
        for batch in image_batches(paths, augmentation(), 4):
            seen.append(len(batch))
    assert sum(seen) == 7
    assert all(isinstance(problem, DataError) for problem in caught.value.problems)
    for path, problem in zip((paths[2], paths[6]), caught.value.problems, strict=True):
        assert str(path) in str(problem)
    with pytest.raises(DataError, match=paths[2].name):
        list(image_batches([paths[2]], augmentation(), 4))


BATCHES = [
    np.random.default_rng(index).normal(0, 60, (count, 8, 12, 3)).astype("float32")
    for index, count in enumerate((3, 3, 1))
]


def test_a_tensor_file_gives_back_what_passed_into_it(tmp_path):
    path = tmp_path / "cal.tensorfile"
    for passed, batch in zip(write_tensors(path, iter(BATCHES)), BATCHES, strict=True):
        np.testing.assert_array_equal(passed, batch)
    for found, batch in zip(read_tensors(path, (8, 12, 3)), BATCHES, strict=True):
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, batch)


def test_a_tensor_file_has_the_originals_layout(tmp_path):
    path = tmp_path / "cal.tensorfile"
    list(write_tensors(path, iter(BATCHES)))
    with h5py.File(path) as file:
        assert file.attrs["count"] == 3
        assert sorted(file) == [f"_tensorfile_array_key__{index}" for index in range(3)]
        for index, batch in enumerate(BATCHES):
            array = file[f"_tensorfile_array_key__{index}"]["_tensorfile_array_key_"]
            assert array.dtype == np.float64
            np.testing.assert_array_equal(array[()], batch.transpose(0, 3, 1, 2))


def test_a_tensor_file_of_others_is_read(tmp_path):
    path = tmp_path / "cal.tensorfile"
    with h5py.File(path, "w") as file:
        file.attrs["count"] = np.int64(1)
        file.create_group("_tensorfile_array_key__0")["_tensorfile_array_key_"] = np.ones((2, 3, 8, 12), np.uint8)
    (found,) = read_tensors(path, (8, 12, 3))
    assert found.shape == (2, 8, 12, 3) and found.dtype == np.float32 and (found == 1).all()


def test_a_tensor_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "cal.tensorfile"
    writing = write_tensors(path, iter(BATCHES))
    next(writing)
    assert not path.exists()
    writing.close()  # whoever took the batches stopped
    assert list(tmp_path.iterdir()) == []

    def failing():
        yield BATCHES[0]
        raise DataError("an image is damaged")

    with pytest.raises(DataError):
        list(write_tensors(path, failing()))
    assert list(tmp_path.iterdir()) == []


def test_a_tensor_file_for_another_network_is_refused(tmp_path):
    path = tmp_path / "cal.tensorfile"
    list(write_tensors(path, iter(BATCHES)))
    with pytest.raises(InputError, match=r"its images are 8x12x3 .*, the network takes 12x8x3") as caught:
        list(read_tensors(path, (12, 8, 3)))
    assert caught.value.where == str(path)


def test_damaged_tensor_files_are_refused(tmp_path):
    path = tmp_path / "cal.tensorfile"

    def refused():
        with pytest.raises(InputError, match="no tensor file, or a damaged one") as caught:
            list(read_tensors(path, (8, 12, 3)))
        return caught.value.where == str(path)

    assert refused()  # missing
    path.write_bytes(b"no HDF5")
    assert refused()
    list(write_tensors(path, iter(BATCHES)))
    contents = path.read_bytes()
    path.write_bytes(contents[: len(contents) // 2])
    assert refused()
    for damage in (lambda f: f.attrs.__delitem__("count"), lambda f: f.__delitem__("_tensorfile_array_key__1")):
        path.write_bytes(contents)
        with h5py.File(path, "a") as file:
            damage(file)
        assert refused()
    with h5py.File(path, "w") as file:  # one axis too few
        file.attrs["count"] = 1
        file.create_group("_tensorfile_array_key__0")["_tensorfile_array_key_"] = np.ones((3, 8, 12))
    assert refused()

import numpy as np
import pytest

from ssd.data.share import ALONE, Share
from ssd.training.shapes import boxes_and_classes, keyed, keyed_pixels, only_images


@pytest.mark.parametrize(("rows", "room"), [(16, 16), (32, 32), (48, 64), (80, 128)])
def test_the_keys_name_the_padded_shape(rows, room):
    rng = np.random.default_rng(0)
    truth = {"boxes": rng.random((3, rows, 4), np.float32), "classes": np.ones((3, rows), np.int32)}
    batch = keyed({**truth, "index": np.arange(3)})
    assert sorted(batch) == [f"boxes 3x{room}", f"classes 3x{room}"]
    boxes, classes = boxes_and_classes({"images": None, **batch})
    assert boxes.shape == (3, room, 4)
    assert np.array_equal(boxes[:, :rows], truth["boxes"])
    assert np.array_equal(classes[:, :rows], truth["classes"])
    assert not classes[:, rows:].any()


@pytest.mark.parametrize(("images", "share"), [(4, ALONE), (4, Share(0, 2, 2)), (3, ALONE)])
def test_pixels_without_fillers_stay_as_they_are(images, share):
    pixels = {"rgb": np.zeros((images, 2, 2, 3)), "covered": np.zeros((images, 4))}
    assert keyed_pixels(pixels, images, share) is pixels
    assert all(only_images(pixels)[name] is pixels[name] for name in pixels)


def test_fillers_are_left_out_again():
    # Two processes have two rows each of a batch of three; within the step the four are one array.
    pixels = {"rgb": np.arange(4)[:, np.newaxis], "covered": np.arange(8).reshape(4, 2)}
    named = keyed_pixels(pixels, 3, Share(0, 2, 2))
    assert sorted(named) == ["covered 3", "rgb 3"]
    found = only_images(named)
    assert sorted(found) == ["covered", "rgb"]
    assert all(np.array_equal(found[name], pixels[name][:3]) for name in pixels)

"""The last of the way of training pixels, against numpy in float64."""

import keras
import numpy as np
import pytest

from ssd.spec.config import Augmentation
from ssd.training.pixels import network_input, unchanged

OFF = {name: 0.0 for name in ("brightness", "contrast", "saturation", "hue", "flip")}


def augmentation(mean: tuple[float, ...]) -> Augmentation:
    once = (1.0, 1.0)
    return Augmentation(9, 7, len(mean), mean, crop_scale=once, crop_aspect_ratio=once, zoom_out=once, **OFF)


def pictures(count: int) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (count, 7, 9, 3), np.uint8)


def found(pixels: dict, mean: tuple[float, ...]) -> np.ndarray:
    return keras.ops.convert_to_numpy(network_input(pixels, augmentation(mean)))


def test_colour_is_clipped_to_what_a_picture_can_hold_before_the_mean_goes():
    rng = np.random.default_rng(6)
    colour = np.concatenate([rng.uniform(-1, 1.5, (2, 3, 3)), np.tile(rng.uniform(-90, 90, (2, 1, 1)), 3)], axis=1)
    pixels = {**unchanged(pictures(2)), "colour": colour.astype(np.float32)}
    expected = np.einsum("bhwc,bcd->bhwd", pixels["rgb"].astype(np.float64), colour[:, :3])
    expected = np.clip(expected + colour[:, 3, np.newaxis, np.newaxis], 0, 255)
    assert np.mean(expected == 0) > 0.05 and np.mean(expected == 255) > 0.05
    bgr = found(pixels, (1.0, 2.0, 3.0))
    assert bgr.shape == (2, 7, 9, 3) and bgr.dtype == np.float32
    np.testing.assert_allclose(bgr, expected[..., ::-1] - [1, 2, 3], atol=1e-3)
    gray = found(pixels, (5.0,))
    np.testing.assert_allclose(gray, expected @ [[0.299], [0.587], [0.114]] - 5, atol=1e-3)


@pytest.mark.parametrize("mean", [(10.0, 20.0, 30.0), (40.0,)])
def test_what_the_image_does_not_cover_is_zero(mean):
    pixels = unchanged(pictures(3))
    whole = found(pixels, mean)
    pixels["covered"] = np.array([[2, 1, 7, 6], [0, 0, 9, 7], [8, 6, 9, 7]], np.int32)
    expected = np.zeros_like(whole)
    for row, (left, top, right, bottom) in enumerate(pixels["covered"]):
        expected[row, top:bottom, left:right] = whole[row, top:bottom, left:right]
    np.testing.assert_array_equal(found(pixels, mean), expected)


def test_without_jitter_pictures_are_exactly_themselves():
    pixels = pictures(2)
    np.testing.assert_array_equal(found(unchanged(pixels), (0.0, 0.0, 0.0)), pixels[..., ::-1])


def test_a_row_does_not_depend_on_the_others():
    """To the bit: processes that share a batch out see what one process sees."""
    rng = np.random.default_rng(7)
    pixels = unchanged(pictures(8))
    pixels["colour"] = rng.uniform(-1, 1.5, (8, 4, 3)).astype(np.float32)
    parts = ({name: values[rows] for name, values in pixels.items()} for rows in (slice(3), slice(3, 8)))
    joined = np.concatenate([found(part, (10.0, 20.0, 30.0)) for part in parts])
    np.testing.assert_array_equal(joined, found(pixels, (10.0, 20.0, 30.0)))

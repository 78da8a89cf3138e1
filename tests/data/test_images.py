"""Decoding against Pillow, and the network input against a resize written here."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from ssd.data.image_header import BadImage
from ssd.data.images import decode, decode_window, image_size, network_input
from ssd.spec.config import Augmentation

MEAN = (103.939, 116.779, 123.68)


def augmentation(width=64, height=48, channels=3, mean=MEAN):
    off = {"crop_scale": (1.0, 1.0), "crop_aspect_ratio": (0.5, 2.0), "zoom_out": (1.0, 1.0)}
    jitter = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0, "flip": 0.0}
    return Augmentation(width=width, height=height, channels=channels, mean=mean, **off, **jitter)


def picture(height=37, width=53, seed=0) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.BICUBIC)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def sixteen_bit() -> bytes:
    gray = np.asarray(picture().convert("L")).astype(np.uint16) * 256 + 99
    return encoded(Image.fromarray(gray), "PNG")


KINDS = {
    "jpeg": lambda: encoded(picture(), "JPEG", quality=95),
    "gray jpeg": lambda: encoded(picture().convert("L"), "JPEG"),
    "cmyk jpeg": lambda: encoded(picture().convert("CMYK"), "JPEG"),
    "progressive jpeg": lambda: encoded(picture(), "JPEG", progressive=True),
    "jpeg with full chroma": lambda: encoded(picture(), "JPEG", subsampling=0),
    "png": lambda: encoded(picture(), "PNG"),
    "gray png": lambda: encoded(picture().convert("L"), "PNG"),
    "bilevel png": lambda: encoded(picture().convert("1"), "PNG"),
    "palette png": lambda: encoded(picture().convert("P"), "PNG"),
    "four-bit palette png": lambda: encoded(picture().quantize(16), "PNG", bits=4),
    "palette png with transparency": lambda: encoded(picture().convert("P"), "PNG", transparency=3),
    "rgba png": lambda: encoded(picture().convert("RGBA"), "PNG"),
    "gray png with alpha": lambda: encoded(picture().convert("LA"), "PNG"),
    "bmp": lambda: encoded(picture(), "BMP"),
    "gray bmp": lambda: encoded(picture().convert("L"), "BMP"),
    "palette bmp": lambda: encoded(picture().convert("P"), "BMP"),
    "bilevel bmp": lambda: encoded(picture().convert("1"), "BMP"),
    "gif": lambda: encoded(picture().convert("P"), "GIF"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_those_that_pillow_decodes(kind):
    contents = KINDS[kind]()
    expected = np.asarray(Image.open(io.BytesIO(contents)).convert("RGB")).astype(int)
    found = decode(tf.constant(contents)).numpy().astype(int)
    assert found.shape == expected.shape
    # JPEG's inverse transform may round differently in another build of libjpeg.
    assert np.abs(found - expected).max() <= (1 if "jpeg" in kind else 0)


def test_of_sixteen_bits_the_upper_eight_remain():
    expected = np.asarray(picture().convert("L"))
    found = decode(tf.constant(sixteen_bit())).numpy()
    np.testing.assert_array_equal(found, np.repeat(expected[..., None], 3, axis=2))


def test_an_animated_gif_gives_its_first_frame():
    first, second = picture(seed=1).convert("P"), picture(seed=2).convert("P")
    contents = encoded(first, "GIF", save_all=True, append_images=[second])
    expected = np.asarray(Image.open(io.BytesIO(contents)).convert("RGB"))
    np.testing.assert_array_equal(decode(tf.constant(contents)), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    contents = encoded(picture(), "JPEG", quality=95, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(contents)))).astype(int)
    assert image_size(contents) == expected.shape[:2]
    assert np.abs(decode(tf.constant(contents)).numpy().astype(int) - expected).max() <= 1
    window = decode_window(tf.constant(contents), tf.constant(orientation), tf.constant([5, 7, 20, 16])).numpy()
    assert np.abs(window.astype(int) - expected[5:25, 7:23])[:, 1:-1].max() <= 1


def test_a_window_of_a_jpeg_has_the_pixels_of_the_whole():
    contents = encoded(picture(201, 303), "JPEG", quality=95)
    whole = decode(tf.constant(contents)).numpy().astype(int)
    for y, x, height, width in ((0, 0, 201, 303), (13, 50, 120, 77), (200, 302, 1, 1), (0, 299, 201, 4)):
        part = decode_window(tf.constant(contents), tf.constant(1), tf.constant([y, x, height, width])).numpy()
        difference = np.abs(part - whole[y : y + height, x : x + width])
        # Chroma of the outermost columns is interpolated without its neighbour outside.
        assert difference[:, 1:-1].max(initial=0) <= 1 and difference.max() <= 8


def bilinear(rgb: np.ndarray, height: int, width: int) -> np.ndarray:
    """Half-pixel centres, edges clamped, in float64."""

    def along(values, size):
        at = np.clip((np.arange(size) + 0.5) * len(values) / size - 0.5, 0, len(values) - 1)
        low = np.minimum(np.floor(at).astype(int), len(values) - 2)
        part = (at - low).reshape(-1, *[1] * (values.ndim - 1))
        return values[low] * (1 - part) + values[low + 1] * part

    rows = along(rgb.astype(np.float64), height)
    return along(rows.transpose(1, 0, 2), width).transpose(1, 0, 2)


@pytest.mark.parametrize("size", [(37, 53), (200, 310), (48, 64), (12, 9)])
def test_network_input_is_a_bilinear_resize_in_bgr_minus_mean(size):
    rgb = np.random.default_rng(3).integers(0, 256, (*size, 3), np.uint8)
    expected = bilinear(rgb, 48, 64)[..., ::-1] - MEAN
    # float32 positions in a picture of noise: a position off by 1e-5 px is a value off by 2e-3.
    np.testing.assert_allclose(network_input(tf.constant(rgb), augmentation()), expected, atol=5e-3)


def test_one_channel_is_weighted_gray_minus_its_mean():
    rgb = np.random.default_rng(4).integers(0, 256, (37, 53, 3), np.uint8)
    resized = bilinear(rgb, 48, 64)
    expected = 0.299 * resized[..., 0] + 0.587 * resized[..., 1] + 0.114 * resized[..., 2] - 117.3786
    found = network_input(tf.constant(rgb), augmentation(channels=1, mean=(117.3786,)))
    np.testing.assert_allclose(found[..., 0], expected, atol=5e-3)
    assert found.shape == (48, 64, 1)


@pytest.mark.parametrize("contents", [b"", b"not an image", KINDS["jpeg"]()[:200], KINDS["png"]()[:60]])
def test_size_of_what_is_no_whole_image_is_refused(contents):
    with pytest.raises(BadImage):
        image_size(contents)


def test_size_of_a_file(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(KINDS["png"]())
    assert image_size(path) == (37, 53)


def test_what_does_not_decode_is_an_error_of_the_graph_without_a_traceback_of_python(capfd):
    load = tf.function(lambda contents: decode(contents, tf.constant(1)))
    for contents in (b"", b"hello", b"BM" + bytes(60), b"GIF89a"):
        with pytest.raises(tf.errors.OpError):
            load(tf.constant(contents))
    assert "Traceback" not in capfd.readouterr().err

"""From image bytes to the network's input, in TensorFlow ops: decoding, the one resize, mean.

Training, evaluation and inference share decoding and resize, so they see the same pixels: the same JPEG decoder
settings (bit for bit what Pillow decodes), bilinear resize with half-pixel centres and without antialiasing. Training
rounds to bytes then, and does the rest in the step (`ssd.training.pixels`).
"""

import io
import os

import numpy as np
import tensorflow as tf
from PIL import Image

from ssd.data.image_header import BadImage, read_header
from ssd.spec.config import LUMA, Augmentation

# libjpeg's accurate integer transform costs 3 % of the decoding time and gives the same pixels as Pillow and OpenCV.
_DCT = "INTEGER_ACCURATE"


def image_size(source: str | os.PathLike | bytes) -> tuple[int, int]:
    """Height and width, px, after EXIF orientation, from the header alone.

    Raises:
        BadImage: it is no image that can be read; OSError: there is no such file.
    """
    if not isinstance(source, bytes):
        with open(source, "rb") as file:
            source = file.read()
    header = read_header(source)
    return header.height, header.width


def decode(contents: tf.Tensor, orientation: tf.Tensor | None = None) -> tf.Tensor:
    """Image file bytes -> upright RGB uint8 `(h, w, 3)`.

    JPEG (gray, CMYK too) and PNG (8 and 16 bit, gray, palette, alpha dropped) decode in TensorFlow, everything else
    (BMP, the first frame of a GIF) through Pillow. Of 16 bits the upper 8 remain.

    Args:
        contents: string scalar.
        orientation: EXIF orientation, int32 scalar; None: read from the bytes.

    Raises:
        tf.errors.OpError: when run on bytes that do not decode.
    """
    if orientation is None:
        orientation = tf.numpy_function(_orientation, [contents], tf.int32, stateful=False)
        orientation.set_shape(())
    image = tf.cond(
        _is_jpeg(contents),
        lambda: tf.io.decode_jpeg(contents, channels=3, dct_method=_DCT),
        lambda: tf.cond(
            tf.strings.substr(contents, 0, 4) == b"\x89PNG",
            lambda: tf.io.decode_png(contents, channels=3),
            lambda: _decode_with_pillow(contents),
        ),
    )
    image = tf.cond(orientation > 1, lambda: _upright(image, orientation), lambda: image)
    return tf.ensure_shape(image, (None, None, 3))


def decode_window(contents: tf.Tensor, orientation: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
    """Part of the upright image: RGB uint8 `(window height, window width, 3)`.

    Of an upright JPEG only the blocks of that part are decoded: a crop costs less than the whole picture.

    Args:
        window: int32 `(4,)` y, x, height, width, px of the upright image; inside it.
    """

    def of_whole():
        return tf.slice(decode(contents, orientation), [window[0], window[1], 0], [window[2], window[3], 3])

    return tf.cond(
        _is_jpeg(contents) & (orientation == 1),
        lambda: tf.io.decode_and_crop_jpeg(contents, window, channels=3, dct_method=_DCT),
        of_whole,
    )


def resize(rgb: tf.Tensor, size) -> tf.Tensor:
    """uint8 `(h, w, 3)` -> float32 `(*size, 3)`: bilinear, half-pixel centres, no antialiasing."""

    def resized(image):
        return tf.raw_ops.ResizeBilinear(images=image[tf.newaxis], size=size, half_pixel_centers=True)[0]

    # TensorFlow has a vectorised version for float32 only, to the same bits. Of a large picture most pixels are never
    # looked at, and converting all of them costs more than that gains.
    few = tf.size(rgb) < 2 * 3 * tf.reduce_prod(size)
    return tf.cond(few, lambda: resized(tf.cast(rgb, tf.float32)), lambda: resized(rgb))


def network_input(rgb: tf.Tensor, augmentation: Augmentation) -> tf.Tensor:
    """uint8 RGB `(h, w, 3)` -> what the network takes, float32 `(H, W, C)`: evaluation, inference, calibration.

    BGR, or gray, minus mean.
    """
    height, width, channels = augmentation.height, augmentation.width, augmentation.channels
    pixels = tf.reshape(resize(rgb, (height, width)), (-1, 3))
    mean = tf.constant(augmentation.mean, tf.float32)
    if channels == 1:
        return tf.reshape(pixels @ tf.constant(LUMA, shape=(3, 1)) - mean, (height, width, 1))
    # As a product: reversing an innermost axis of 3 takes longer. Three values repeated to a whole row: broadcasting
    # along that axis is several times slower.
    pixels = pixels @ np.eye(3, dtype=np.float32)[:, ::-1]
    rows = tf.reshape(pixels, (height, 3 * width)) - tf.tile(mean, [width])
    return tf.reshape(rows, (height, width, 3))


def decoding_fault(contents: bytes) -> str | None:
    """Why image bytes do not decode, or None where they do."""
    try:
        read_header(contents)
        decode(tf.constant(contents))
    except BadImage as error:
        return str(error)
    except tf.errors.OpError:
        return "the image is damaged: its header is fine and its pixels do not decode"
    return None


def _is_jpeg(contents: tf.Tensor) -> tf.Tensor:
    return tf.strings.substr(contents, 0, 3) == b"\xff\xd8\xff"


def _as_bytes(value) -> bytes:
    # numpy_function hands over bytes in a graph and a 0-d array of objects outside of one.
    return value if isinstance(value, bytes) else value.item()


def _orientation(contents) -> np.int32:
    try:
        return np.int32(read_header(_as_bytes(contents)).orientation)
    except BadImage:
        return np.int32(1)  # the decoder says what is wrong


def _upright(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """EXIF orientations 2..8 undone: a transposition and two mirrorings."""

    def any_of(*values):
        return tf.reduce_any(orientation == tf.constant(values))

    image = tf.cond(orientation >= 5, lambda: tf.transpose(image, (1, 0, 2)), lambda: image)
    image = tf.cond(any_of(2, 3, 6, 7), lambda: tf.reverse(image, [1]), lambda: image)
    return tf.cond(any_of(3, 4, 7, 8), lambda: tf.reverse(image, [0]), lambda: image)


def _decode_with_pillow(contents: tf.Tensor) -> tf.Tensor:
    image = tf.numpy_function(_pillow_pixels, [contents], tf.uint8, stateful=False)
    image.set_shape((None, None, 3))
    with tf.control_dependencies([tf.debugging.assert_positive(tf.size(image), "not a readable image")]):
        return tf.identity(image)


def _pillow_pixels(contents) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(_as_bytes(contents))) as image:
            return np.array(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        # An error from here TensorFlow prints with a traceback; no pixels are one that the graph finds by itself.
        return np.zeros((0, 0, 3), np.uint8)

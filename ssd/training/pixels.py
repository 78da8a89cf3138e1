"""The last of the way of a training batch into the network, as part of the step: colour, mean, and what is no image."""

import keras
import numpy as np
from keras import ops

from ssd.spec.config import LUMA, Augmentation


def network_input(pixels: dict, augmentation: Augmentation):
    """A training batch's "rgb", "colour" and "covered" (see `ssd.data.loader.Loader`) -> float32 `(B, H, W, C)`.

    BGR or gray, jittered, minus mean; outside the image is mean colour, which is 0.
    """
    if keras.backend.backend() != "tensorflow":
        return _finished(pixels, augmentation)
    import tensorflow as tf

    # The one part of the step that XLA makes faster on a CPU: one pass over the pictures instead of ten.
    return tf.function(lambda pixels: _finished(pixels, augmentation), jit_compile=True)(pixels)


def _finished(pixels: dict, augmentation: Augmentation):
    height, width, channels = augmentation.height, augmentation.width, augmentation.channels
    rgb, colour = (
        ops.cast(pixels["rgb"], "float32"),
        ops.convert_to_tensor(pixels["colour"])[:, :, np.newaxis, np.newaxis],
    )
    if channels == 3:
        colour = ops.flip(colour, axis=-1)  # to BGR: twelve numbers rather than the picture
    # A sum rather than a matrix product: compiled, it is one pass with all that follows.
    image = ops.clip(sum(rgb[..., c : c + 1] * colour[:, c] for c in range(3)) + colour[:, 3], 0.0, 255.0)
    if channels == 1:
        image = sum(image[..., c : c + 1] * weight for c, weight in enumerate(LUMA))
    edges = ops.convert_to_tensor(pixels["covered"])[:, :, np.newaxis, np.newaxis]
    left, top, right, bottom = ops.unstack(edges[..., np.newaxis], 4, axis=1)
    x, y = np.arange(width, dtype=np.int32)[:, np.newaxis], np.arange(height, dtype=np.int32)[:, np.newaxis, np.newaxis]
    inside = (x >= left) & (x < right) & (y >= top) & (y < bottom)
    return ops.where(inside, image - np.array(augmentation.mean, np.float32), 0.0)


def unchanged(rgb: np.ndarray) -> dict[str, np.ndarray]:
    """Pictures uint8 `(B, H, W, 3)` as a training batch in which nothing is jittered and no place is empty."""
    images, height, width, _ = rgb.shape
    return {
        "rgb": rgb,
        "colour": np.tile(np.eye(4, 3, dtype=np.float32), (images, 1, 1)),
        "covered": np.tile(np.array([0, 0, width, height], np.int32), (images, 1)),
    }

"""The end of a training batch's way into the network, as part of the step: colour, mean, and the empty places."""

import numpy as np
from keras import ops

from ssd.spec.config import LUMA, Augmentation


def network_input(pixels: dict, augmentation: Augmentation):
    """A training batch's "rgb", "colour" and "covered" (see `ssd.data.loader.Loader`) -> float32 `(B, H, W, C)`.

    BGR or gray, jittered, minus mean; outside the image is mean colour, which is 0.
    """
    rgb = ops.cast(pixels["rgb"], "float32")
    colour = ops.convert_to_tensor(pixels["colour"])[:, :, np.newaxis, np.newaxis]
    if augmentation.channels == 3:
        colour = ops.flip(colour, axis=-1)  # to BGR: twelve numbers rather than the picture
    # A sum rather than a matrix product: compiled, it is one pass with all that follows.
    image = ops.clip(sum(rgb[..., c : c + 1] * colour[:, c] for c in range(3)) + colour[:, 3], 0.0, 255.0)
    if augmentation.channels == 1:
        image = sum(image[..., c : c + 1] * weight for c, weight in enumerate(LUMA))
    edges = ops.convert_to_tensor(pixels["covered"])[:, :, np.newaxis, np.newaxis, np.newaxis]
    left, top, right, bottom = ops.unstack(edges, 4, axis=1)
    x = np.arange(augmentation.width, dtype=np.int32)[:, np.newaxis]
    y = np.arange(augmentation.height, dtype=np.int32)[:, np.newaxis, np.newaxis]
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

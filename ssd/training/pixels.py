"""The end of a training batch's way into the network, as part of the step: colour, mean, and the empty places."""

import numpy as np
from keras import ops

from ssd.spec.config import LUMA, Augmentation


def network_input(pixels: dict, augmentation: Augmentation):
    """A training batch's "rgb", "colour" and "covered" (see `ssd.data.loader.Loader`) -> float32 `(B, H, W, C)`.

    BGR or gray, jittered, minus mean; outside the image is mean colour, which is 0.
    """
    height, width, channels = augmentation.height, augmentation.width, augmentation.channels
    colour = ops.convert_to_tensor(pixels["colour"])
    if channels == 3:
        colour = ops.flip(colour, axis=-1)  # to BGR: twelve numbers rather than the picture
    image = ops.clip(_mixed(ops.reshape(pixels["rgb"], (-1, height, width * 3)), colour, width), 0.0, 255.0)
    if channels == 1:
        image = ops.reshape(image, (-1, height, width, 3))
        image = sum(image[..., c] * weight for c, weight in enumerate(LUMA))
    edges = ops.convert_to_tensor(pixels["covered"])[:, :, np.newaxis, np.newaxis]
    left, top, right, bottom = ops.unstack(edges, 4, axis=1)
    x = np.repeat(np.arange(width, dtype=np.int32), channels)
    y = np.arange(height, dtype=np.int32)[:, np.newaxis]
    inside = (x >= left) & (x < right) & (y >= top) & (y < bottom)
    image = ops.where(inside, image - np.tile(np.array(augmentation.mean, np.float32), width), 0.0)
    return ops.reshape(image, (-1, height, width, channels))


def _mixed(rows, colour, width: int):
    """The three channels of every pixel through `colour` `(B, 4, 3)`: of each the shares, and what is added.

    Rows are `(B, H, 3W)`, a pixel's channels side by side. For neighbours at a distance the coefficients repeat every
    three numbers, which compiles to plain vector arithmetic: three quarters of the time of a sum over channels.
    """
    padded, nothing = ops.pad(rows, ((0, 0), (0, 0), (2, 2))), ops.zeros_like(colour[:, 0, 0])

    def along(three):
        return ops.tile(ops.stack(three, axis=-1), (1, width))[:, np.newaxis, :]

    mixed = along([colour[:, 3, out] for out in range(3)])
    for distance in range(-2, 3):
        shares = [colour[:, out + distance, out] if 0 <= out + distance < 3 else nothing for out in range(3)]
        start = 2 + distance
        mixed = mixed + ops.cast(padded[:, :, start : start + 3 * width], "float32") * along(shares)
    return mixed


def unchanged(rgb: np.ndarray) -> dict[str, np.ndarray]:
    """Pictures uint8 `(B, H, W, 3)` as a training batch in which nothing is jittered and no place is empty."""
    images, height, width, _ = rgb.shape
    return {
        "rgb": rgb,
        "colour": np.tile(np.eye(4, 3, dtype=np.float32), (images, 1, 1)),
        "covered": np.tile(np.array([0, 0, width, height], np.int32), (images, 1)),
    }

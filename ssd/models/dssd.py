"""DSSD: coarse feature maps flow back into the finer ones before the heads (Fu et al. 2017, figures 1 and 3)."""

from keras import layers as keras_layers

from ssd.models.layers import Layers

SHRUNK = 256  # channels of the finest map behind `shrink`


def shrink(x, layers: Layers):
    """The finest map of a small network, brought to 256 channels by a linear 1x1 convolution."""
    return layers.conv(x, SHRUNK, 1, name="ssd_shrink_block_0")


def deconvolve(maps: list, layers: Layers) -> list:
    """The feature maps again, in the same shapes; each but the coarsest has seen all that are coarser.

    Args:
        maps: `(B,h,w,c)` each, finest first; the next has half the size, rounded up or down.
    """
    refined = [maps[-1]]
    for index, fine in enumerate(reversed(maps[:-1])):
        refined.append(merge(refined[-1], fine, index, layers))
    return refined[::-1]


def merge(coarse, fine, index: int, layers: Layers):
    """`coarse` `(B,h,w,c)` doubled in size, times `fine` `(B,H,W,C)`, in the shape of `fine`."""
    _, height, width, channels = fine.shape

    def name(part: str) -> str:
        return f"dssd_{part}_block_{index}"

    x = layers.conv_bn_relu(
        fine, channels, 3, name=name("large_conv_0"), bn=name("large_bn_0"), relu=name("large_relu_0")
    )
    x = layers.conv_bn(x, channels, 3, name=name("large_conv_1"), bn=name("large_bn_1"))
    y = layers.double(coarse, channels, name=name("small_deconv"))
    (top, kernel_height), (left, kernel_width) = _fit(y.shape[1], height), _fit(y.shape[2], width)
    y = keras_layers.ZeroPadding2D((top, left), name=f"dssd_pad_{index}")(y)
    y = layers.conv(y, channels, (kernel_height, kernel_width), padded=True, name=name("small_conv"))
    y = layers.batch_norm(y, name("small_bn"))
    return layers.relu(keras_layers.Multiply(name=name("mul"))([x, y]), name("relu"))


def _fit(size: int, wanted: int) -> tuple[int, int]:
    """Zeros on each side and kernel of a valid convolution from `size` to `wanted`, which differ by one at most."""
    if size == wanted:
        return 1, 3
    return (0, 2) if size > wanted else (1, 2)

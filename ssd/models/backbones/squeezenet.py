"""SqueezeNet 1.0 (Iandola et al. 2016, table 1) without its classifier: biases everywhere, no batch normalisation."""

from ssd.models.layers import Layers

# filters of the fire modules 2..9: squeeze, each half of the expansion
FIRES = ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256))
POOLS_AFTER = (4, 8)
MAP_FIRE = 8  # its output, the last of stride 8, is the first feature map

# freeze_blocks: 0 is the stem, 1..8 are fire2..fire9
BLOCKS = ((r"conv1(_|$)", 0), (r"fire(?P<id>\d)(_|$)", -1))


def squeezenet(images, layers: Layers, depth: None = None):
    """`images` `(B,H,W,C)` to ([feature map of stride 8], last tensor of stride 16)."""
    x = layers.relu(layers.conv(images, 96, 7, stride=2, bias=True, name="conv1"), "conv1_relu")
    x = layers.max_pool(x, 3, 2, name="pool1")
    maps = []
    for number, (squeeze, expand) in enumerate(FIRES, start=2):
        x = fire(x, squeeze, expand, f"fire{number}", layers)
        if number == MAP_FIRE:
            maps.append(x)
        if number in POOLS_AFTER:
            x = layers.max_pool(x, 3, 2, name=f"pool{number}")
    return maps, x


def fire(x, squeeze: int, expand: int, name: str, layers: Layers):
    """1x1 down to `squeeze`, then 1x1 and 3x3 side by side: `2 * expand` channels (figure 2 of the paper)."""
    x = layers.relu(layers.conv(x, squeeze, 1, bias=True, name=f"{name}_squeeze_conv"), f"{name}_squeeze")
    halves = [
        layers.relu(
            layers.conv(x, expand, kernel, bias=True, name=f"{name}_expand_conv{kernel}x{kernel}"),
            f"{name}_expand_{kernel}x{kernel}",
        )
        for kernel in (1, 3)
    ]
    return layers.concat(halves, name)

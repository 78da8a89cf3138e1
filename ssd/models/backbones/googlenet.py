"""GoogLeNet (Szegedy et al. 2015, table 1) with BN, 2x2 pools and no fourth one: total stride 16."""

from ssd.models.layers import Layers

# filters of each inception: 1x1 | 1x1 before the 3x3, 3x3 | 1x1 before the 5x5, 5x5 | 1x1 behind the pool
INCEPTIONS = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
MAP_INCEPTION = "3b"  # its output, the last of stride 8, is the first feature map; pool3 follows

# freeze_blocks: 0 is everything before the inceptions, 1..9 are these in their order
BLOCKS = (
    (r"(bn_)?conv[12](_|$)", 0),
    *((rf"inception_{part}_", number) for number, part in enumerate(INCEPTIONS, start=1)),
)


def googlenet(images, layers: Layers, depth: None = None):
    """`images` `(B,H,W,C)` to ([feature map of stride 8], last tensor of stride 16)."""
    x = _stem_conv(images, 64, 7, 2, "conv1", layers)
    x = layers.max_pool(x, 2, 2, name="pool1")
    x = _stem_conv(x, 64, 1, 1, "conv2_reduce", layers)
    x = _stem_conv(x, 192, 3, 1, "conv2", layers)
    x = layers.max_pool(x, 2, 2, name="pool2")
    maps = []
    for part, filters in INCEPTIONS.items():
        x = inception(x, filters, f"inception_{part}_", layers)
        if part == MAP_INCEPTION:
            maps.append(x)
            x = layers.max_pool(x, 2, 2, name="pool3")
    return maps, x


def inception(x, filters: tuple[int, ...], name: str, layers: Layers):
    """Four branches side by side (figure 2 (b) of the paper); `filters` as in `INCEPTIONS`."""
    one, reduce_three, three, reduce_five, five, projection = filters

    def conv(x, filters, kernel, part):
        part = f"{name}{part}"
        return layers.conv_bn_relu(x, filters, kernel, name=part, bn=f"{part}_bn", relu=f"{part}_relu")

    branches = [
        conv(x, one, 1, "1x1"),
        conv(conv(x, reduce_three, 1, "3x3_reduce"), three, 3, "3x3"),
        conv(conv(x, reduce_five, 1, "5x5_reduce"), five, 5, "5x5"),
        conv(layers.max_pool(x, 3, 1, name=f"{name}pool"), projection, 1, "pool_proj"),
    ]
    return layers.concat(branches, f"{name}output")


def _stem_conv(x, filters: int, kernel: int, stride: int, name: str, layers: Layers):
    return layers.conv_bn_relu(x, filters, kernel, stride=stride, name=name, bn=f"bn_{name}", relu=f"{name}_relu")

"""ResNets as the original toolkit has them: a projection in every shortcut, no max-pooling, total stride 16."""

from ssd.models.layers import Layers

# units of each stage
UNITS = {
    10: (1, 1, 1, 1),
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
}
FILTERS = (64, 128, 256, 512)
STRIDES = (2, 2, 2, 1)  # of each stage's first unit
MAP_STAGE = 2  # its last output, at stride 8, is the first feature map

# freeze_blocks: 0 is the stem, 1..4 are the stages
BLOCKS = ((r"(bn_)?conv1(_|$)", 0), (r"block_(?P<id>\d)[a-z]+_", 0))


def resnet(images, layers: Layers, depth: int):
    """`images` `(B,H,W,C)` to ([feature map of stride 8], last tensor of stride 16)."""
    unit = basic_unit if depth < 50 else bottleneck_unit
    x = layers.conv_bn_relu(images, 64, 7, stride=2, name="conv1", bn="bn_conv1", relu="conv1_relu")
    maps = []
    for stage, (units, filters, stride) in enumerate(zip(UNITS[depth], FILTERS, STRIDES, strict=True), start=1):
        for index in range(units):
            x = unit(x, filters, stride if index == 0 else 1, f"block_{stage}{chr(ord('a') + index)}_", layers)
        if stage == MAP_STAGE:
            maps.append(x)
    return maps, x


def basic_unit(x, filters: int, stride: int, name: str, layers: Layers):
    """Two 3x3 convolutions (He et al. 2016, figure 2)."""
    y = layers.conv_bn_relu(x, filters, 3, stride=stride, name=f"{name}conv_1", bn=f"{name}bn_1", relu=f"{name}relu_1")
    y = layers.conv_bn(y, filters, 3, name=f"{name}conv_2", bn=f"{name}bn_2")
    return _join(x, y, filters, stride, name, layers)


def bottleneck_unit(x, filters: int, stride: int, name: str, layers: Layers):
    """1x1 down, 3x3, 1x1 up to four times the filters (He et al. 2016, figure 5); the first one carries the stride."""
    y = layers.conv_bn_relu(x, filters, 1, stride=stride, name=f"{name}conv_1", bn=f"{name}bn_1", relu=f"{name}relu_1")
    y = layers.conv_bn_relu(y, filters, 3, name=f"{name}conv_2", bn=f"{name}bn_2", relu=f"{name}relu_2")
    y = layers.conv_bn(y, 4 * filters, 1, name=f"{name}conv_3", bn=f"{name}bn_3")
    return _join(x, y, 4 * filters, stride, name, layers)


def _join(x, y, filters: int, stride: int, name: str, layers: Layers):
    shortcut = layers.conv_bn(x, filters, 1, stride=stride, name=f"{name}conv_shortcut", bn=f"{name}bn_shortcut")
    return layers.relu(layers.add([y, shortcut], f"{name}add"), f"{name}relu")

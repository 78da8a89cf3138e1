"""VGG (Simonyan and Zisserman 2015, table 1) with BN; strides in the convolutions take the place of the pools."""

from ssd.models.layers import Layers

# convolutions of each stage
UNITS = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
FILTERS = (64, 128, 256, 512, 512)
STRIDES = (1, 2, 2, 2, 2)  # of each stage's first convolution
MAP_STAGE = 4  # its last output, at stride 8, is the first feature map

# freeze_blocks: 1..5 are the stages; the stem belongs to the first
BLOCKS = ((r"block_(?P<id>\d)[a-z]_", 0),)


def vgg(images, layers: Layers, depth: int):
    """`images` `(B,H,W,C)` to ([feature map of stride 8], last tensor of stride 16)."""
    x, maps = images, []
    for stage, (units, filters, stride) in enumerate(zip(UNITS[depth], FILTERS, STRIDES, strict=True), start=1):
        for index in range(units):
            name = f"block_{stage}{chr(ord('a') + index)}_"
            x = layers.conv_bn_relu(
                x,
                filters,
                3,
                stride=stride if index == 0 else 1,
                name=f"{name}conv_1",
                bn=f"{name}bn_1",
                relu=f"{name}relu",
            )
        if stage == MAP_STAGE:
            maps.append(x)
    return maps, x

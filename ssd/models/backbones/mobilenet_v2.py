"""MobileNet v2 (Sandler et al. 2018, table 2) up to stride 16, with ReLU, as the original toolkit has it.

A block that keeps its size adds its input not as it is but through a 1x1 convolution without BN.
"""

from dataclasses import replace

from ssd.models.layers import Layers

EXPANSION = 6
# filters and stride of blocks 1..12; block 0 is the one without expansion
TABLE = ((24, 2), (24, 1), (32, 2), (32, 1), (32, 1), (64, 2), (64, 1), (64, 1), (64, 1), (96, 1), (96, 1), (96, 1))
MAP_BLOCK = 6  # its expanded input, the last tensor of stride 8, is the first feature map

# freeze_blocks: 0 is the stem, i + 1 is block i; re_lu_n is the ReLU behind the expansion of block n - 1
BLOCKS = (
    (r"(bn_)?conv1(_|$)", 0),
    (r"re_lu_(?P<id>\d+)$", 0),
    (r"expanded_conv_", 1),
    (r"block_(?P<id>\d+)_", 1),
)


def mobilenet_v2(images, layers: Layers, depth: None = None):
    """`images` `(B,H,W,C)` to ([feature map of stride 8], last tensor of stride 16)."""
    layers = replace(layers, momentum=0.999)
    x = layers.conv_bn_relu(images, 32, 3, stride=2, name="conv1", bn="bn_conv1", relu="re_lu_0")
    x = depthwise_project(x, 16, 1, "expanded_conv_", layers)
    maps = []
    for index, (filters, stride) in enumerate(TABLE, start=1):
        name, channels = f"block_{index}_", x.shape[-1]
        y = layers.conv_bn_relu(
            x, EXPANSION * channels, 1, name=f"{name}expand", bn=f"{name}expand_bn", relu=f"re_lu_{index + 1}"
        )
        if index == MAP_BLOCK:
            maps.append(y)
        y = depthwise_project(y, filters, stride, name, layers)
        if stride == 1 and channels == filters:
            shortcut = layers.conv(x, filters, 1, name=f"{name}projected_inputs")
            y = layers.add([shortcut, y], f"{name}add")
        x = y
    return maps, x


def depthwise_project(x, filters: int, stride: int, name: str, layers: Layers):
    """Depthwise 3x3 with ReLU, then a linear 1x1 down to `filters`."""
    x = layers.depthwise(x, 3, stride=stride, name=f"{name}depthwise", pad=f"{name}depthwise_pad")
    x = layers.relu(layers.batch_norm(x, f"{name}depthwise_bn"), f"{name}relu")
    return layers.conv_bn(x, filters, 1, name=f"{name}project", bn=f"{name}project_bn")

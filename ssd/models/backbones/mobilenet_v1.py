"""MobileNet v1 (Howard et al. 2017, table 1) up to stride 16, with ReLU, as the original toolkit has it."""

from ssd.models.layers import Layers

# filters and stride of each depthwise-separable block
TABLE = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1), (512, 1), (512, 1), (512, 1), (512, 1))
MAP_BLOCK = 5  # its output, the last of stride 8, is the first feature map

# freeze_blocks: 0 is the stem, 1..11 are the blocks
BLOCKS = ((r"conv(1|_block)(_|$)", 0), (r"conv_(pad|dw|pw|pw_relu)_(?P<id>\d+)(_|$)", 0))


def mobilenet_v1(images, layers: Layers, depth: None = None):
    """`images` `(B,H,W,C)` to ([feature map of stride 8], last tensor of stride 16)."""
    x = layers.conv_bn_relu(images, 32, 3, stride=2, name="conv1", bn="conv1_bn", relu="conv_block_relu")
    maps = []
    for index, (filters, stride) in enumerate(TABLE, start=1):
        x = layers.depthwise(x, 3, stride=stride, name=f"conv_dw_{index}", pad=f"conv_pad_{index}")
        x = layers.relu(layers.batch_norm(x, f"conv_dw_{index}_bn"), f"conv_dw_{index}_relu")
        x = layers.conv_bn_relu(
            x, filters, 1, name=f"conv_pw_{index}", bn=f"conv_pw_{index}_bn", relu=f"conv_pw_relu_{index}"
        )
        if index == MAP_BLOCK:
            maps.append(x)
    return maps, x

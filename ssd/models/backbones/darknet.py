"""DarkNet-19 and -53 (Redmon and Farhadi 2017, table 6; 2018, table 1) with ReLU, to stride 32.

The layers called `lrelu` are ReLUs in an SSD of the original toolkit; the name is what its files know them by.
"""

from ssd.models.layers import Layers

# DarkNet-19: filters of the convolutions of each stage, behind a pool that halves; 3x3 and 1x1 take turns
STAGES_19 = ((64,), (128, 64, 128), (256, 128, 256), (512, 256, 512, 256, 512), (1024, 512, 1024, 512, 1024))
# DarkNet-53: filters and residual units of each stage, behind a convolution that halves
STAGES_53 = ((64, 1), (128, 2), (256, 8), (512, 8), (1024, 4))
MAP_STAGES = (3, 4)  # their last outputs, at strides 8 and 16, are the first feature maps

# freeze_blocks: 0 is the stem, 1..5 are the stages; conv2..conv6 begin the stages of DarkNet-53
BLOCKS = ((r"conv(?P<id>\d)(_|$)", -1), (r"b(?P<id>\d)_", 0))


def darknet(images, layers: Layers, depth: int):
    """`images` `(B,H,W,C)` to ([feature maps of strides 8 and 16], last tensor of stride 32)."""
    x = _conv(images, 32, 3, 1, "conv1", layers)
    return darknet19(x, layers) if depth == 19 else darknet53(x, layers)


def darknet19(x, layers: Layers):
    maps = []
    for stage, convolutions in enumerate(STAGES_19, start=1):
        x = layers.max_pool(x, 2, 2, name=f"maxpool_{stage}")
        for index, filters in enumerate(convolutions, start=1):
            x = _conv(x, filters, 3 if index % 2 else 1, 1, f"b{stage}_conv{index}", layers)
        if stage in MAP_STAGES:
            maps.append(x)
    return maps, x


def darknet53(x, layers: Layers):
    maps = []
    for stage, (filters, units) in enumerate(STAGES_53, start=1):
        x = _conv(x, filters, 3, 2, f"conv{stage + 1}", layers)
        for index in range(1, units + 1):
            y = _conv(x, filters // 2, 1, 1, f"b{stage}_conv{index}_1", layers)
            y = _conv(y, filters, 3, 1, f"b{stage}_conv{index}_2", layers)
            x = layers.add([x, y], f"b{stage}_add{index}")
        if stage in MAP_STAGES:
            maps.append(x)
    return maps, x


def _conv(x, filters: int, kernel: int, stride: int, name: str, layers: Layers):
    return layers.conv_bn_relu(x, filters, kernel, stride=stride, name=name, bn=f"{name}_bn", relu=f"{name}_lrelu")

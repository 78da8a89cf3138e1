"""EfficientNet-B0 (Tan and Le 2019, table 1), to stride 32.

The original toolkit meant to put ReLU in the place of swish, but its networks have swish and so do their weights.
"""

from dataclasses import replace

from keras import layers as keras_layers

from ssd.models.layers import Layers

# kernel, units, filters, expansion, stride of the first unit
GROUPS = (
    (3, 1, 16, 1, 1),
    (3, 2, 24, 6, 2),
    (5, 2, 40, 6, 2),
    (3, 3, 80, 6, 2),
    (5, 3, 112, 6, 1),
    (5, 4, 192, 6, 2),
    (3, 1, 320, 6, 1),
)
UNITS = sum(units for _, units, *_ in GROUPS)
MAP_GROUPS = (4, 6)  # the expanded inputs of their first units, the last of strides 8 and 16, are feature maps
SQUEEZE = 4  # squeeze-and-excitation has a fourth of a unit's input channels
DROP_RATE = 0.2  # of the last unit; rises evenly over the units (Huang et al. 2016, section 3)
INITIALIZER = {
    "class_name": "VarianceScaling",
    "config": {"scale": 2.0, "mode": "fan_out", "distribution": "truncated_normal"},
}

# freeze_blocks: 0 is the stem, 1..7 are the groups, 8 is the last convolution
BLOCKS = ((r"stem_", 0), (r"block(?P<id>\d)[a-z]_", 0), (r"top_", 8))


def efficientnet_b0(images, layers: Layers, depth: None = None):
    """`images` `(B,H,W,C)` to ([feature maps of strides 8 and 16], last tensor of stride 32)."""
    layers = replace(layers, initializer=INITIALIZER)
    x = _pad(images, 3, "stem_conv_pad")
    x = layers.conv(x, 32, 3, stride=2, padded=True, name="stem_conv")
    x = layers.swish(layers.batch_norm(x, "stem_bn"), "stem_activation")
    maps, index = [], 0
    for group, (kernel, units, filters, expansion, stride) in enumerate(GROUPS, start=1):
        for unit in range(units):
            name = f"block{group}{chr(ord('a') + unit)}_"
            step = stride if unit == 0 else 1
            y = expand(x, expansion, name, layers)
            if group in MAP_GROUPS and unit == 0:
                maps.append(y)
            squeeze = x.shape[-1] // SQUEEZE
            y = depthwise_excite_project(y, kernel, step, squeeze=squeeze, filters=filters, name=name, layers=layers)
            if step == 1 and x.shape[-1] == filters:
                y = layers.add([drop(y, DROP_RATE * index / UNITS, f"{name}drop"), x], f"{name}add")
            x, index = y, index + 1
    x = layers.batch_norm(layers.conv(x, 1280, 1, name="top_conv"), "top_bn")
    return maps, layers.swish(x, "top_activation")


def expand(x, expansion: int, name: str, layers: Layers):
    if expansion == 1:
        return x
    x = layers.conv_bn(x, expansion * x.shape[-1], 1, name=f"{name}expand_conv", bn=f"{name}expand_bn")
    return layers.swish(x, f"{name}expand_activation")


def depthwise_excite_project(x, kernel: int, stride: int, *, squeeze: int, filters: int, name: str, layers: Layers):
    """Depthwise convolution, channel weights from the whole picture (Hu et al. 2018, figure 2), linear 1x1."""
    if stride > 1:
        x = _pad(x, kernel, f"{name}dwconv_pad")
    x = layers.depthwise(x, kernel, stride=stride, name=f"{name}dwconv", pad=None)
    x = layers.swish(layers.batch_norm(x, f"{name}bn"), f"{name}activation")
    channels = x.shape[-1]
    weights = keras_layers.GlobalAveragePooling2D(name=f"{name}se_squeeze")(x)
    weights = keras_layers.Reshape((1, 1, -1), name=f"{name}se_reshape")(weights)
    weights = layers.conv(weights, squeeze, 1, bias=True, activation="silu", name=f"{name}se_reduce")
    weights = layers.conv(weights, channels, 1, bias=True, activation="sigmoid", name=f"{name}se_expand")
    x = keras_layers.Multiply(name=f"{name}se_excite")([x, weights])
    return layers.conv_bn(x, filters, 1, name=f"{name}project_conv", bn=f"{name}project_bn")


def drop(x, rate: float, name: str):
    """In training, leaves out the unit for a part `rate` of the images, and scales up the others."""
    return keras_layers.Dropout(rate, noise_shape=(None, 1, 1, 1), name=name)(x)


def _pad(x, kernel: int, name: str):
    """Zeros before a stride of 2: `kernel // 2` at the end, at the beginning one less on an even size."""
    end = kernel // 2
    height, width = ((end - (size % 2 == 0), end) for size in x.shape[1:3])
    return keras_layers.ZeroPadding2D((height, width), name=name)(x)

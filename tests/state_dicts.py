"""State dicts of torchvision's and timm's networks, by their papers' tables: names and shapes, nothing of this package.

The values take no memory: a tensor is one number, broadcast.
"""

import numpy as np

INCEPTIONS = {  # channels in, 1x1, 3x3 reduced, 3x3, 5x5 reduced, 5x5, behind the pooling
    "3a": (192, 64, 96, 128, 16, 32, 32),
    "3b": (256, 128, 128, 192, 32, 96, 64),
    "4a": (480, 192, 96, 208, 16, 48, 64),
    "4b": (512, 160, 112, 224, 24, 64, 64),
    "4c": (512, 128, 128, 256, 24, 64, 64),
    "4d": (512, 112, 144, 288, 32, 64, 64),
    "4e": (528, 256, 160, 320, 32, 128, 128),
    "5a": (832, 256, 160, 320, 32, 128, 128),
    "5b": (832, 384, 192, 384, 48, 128, 128),
}
# kernel, repeats, channels, expansion
EFFICIENTNET = ((3, 1, 16, 1), (3, 2, 24, 6), (5, 2, 40, 6), (3, 3, 80, 6), (5, 3, 112, 6), (5, 4, 192, 6))
EFFICIENTNET += ((3, 1, 320, 6),)
MOBILENET = ((3, 1, 16, 1), (3, 2, 24, 6), (3, 3, 32, 6), (3, 4, 64, 6), (3, 3, 96, 6), (3, 3, 160, 6), (3, 1, 320, 6))


class State(dict):
    """Tensors by name, put in module by module."""

    def put(self, name, *shape):
        self[name] = np.broadcast_to(np.float32(0.5 + len(self) / 1000), shape)

    def conv(self, name, outputs, inputs, size, bias=False):
        self.put(f"{name}.weight", outputs, inputs, size, size)
        if bias:
            self.put(f"{name}.bias", outputs)

    def norm(self, name, channels):
        for part in ("weight", "bias", "running_mean", "running_var"):
            self.put(f"{name}.{part}", channels)
        self[f"{name}.num_batches_tracked"] = np.array(1)

    def unit(self, conv, norm, outputs, inputs, size):
        self.conv(conv, outputs, inputs, size)
        self.norm(norm, outputs)

    def linear(self, name, outputs, inputs):
        self.put(f"{name}.weight", outputs, inputs)
        self.put(f"{name}.bias", outputs)


def resnet(counts, bottleneck, deep=False, attention=False):
    """`deep`: timm's resnet50d and so on, three convolutions in the stem and a pooling before a projection."""
    state = State()
    if deep:
        state.unit("conv1.0", "conv1.1", 32, 3, 3)
        state.unit("conv1.3", "conv1.4", 32, 32, 3)
        state.conv("conv1.6", 64, 32, 3)
    else:
        state.conv("conv1", 64, 3, 7)
    state.norm("bn1", 64)
    inputs = 64
    for stage, (count, width) in enumerate(zip(counts, (64, 128, 256, 512), strict=True), start=1):
        for i in range(count):
            name = f"layer{stage}.{i}."
            outputs = 4 * width if bottleneck else width
            state.unit(f"{name}conv1", f"{name}bn1", width, inputs, 1 if bottleneck else 3)
            state.unit(f"{name}conv2", f"{name}bn2", width, width, 3)
            if bottleneck:
                state.unit(f"{name}conv3", f"{name}bn3", outputs, width, 1)
            if attention:  # timm's ecaresnet
                state.put(f"{name}se.conv.weight", 1, 1, 3)
            if i == 0 and (inputs != outputs or stage > 1):
                state.unit(f"{name}downsample.{int(deep)}", f"{name}downsample.{1 + deep}", outputs, inputs, 1)
            inputs = outputs
    state.linear("fc", 10, inputs)
    return state


def vgg(counts, batch_norm):
    state, index, inputs = State(), 0, 3
    for count, width in zip(counts, (64, 128, 256, 512, 512), strict=True):
        for _ in range(count):
            state.conv(f"features.{index}", width, inputs, 3, bias=True)
            if batch_norm:
                state.norm(f"features.{index + 1}", width)
            inputs, index = width, index + 2 + batch_norm
        index += 1
    state.linear("classifier.6", 10, 4096)
    return state


def googlenet():
    state = State()

    def unit(name, outputs, inputs, size):
        state.unit(f"{name}.conv", f"{name}.bn", outputs, inputs, size)

    unit("conv1", 64, 3, 7)
    unit("conv2", 64, 64, 1)
    unit("conv3", 192, 64, 3)
    for place, (inputs, one, reduce3, three, reduce5, five, pool) in INCEPTIONS.items():
        name = f"inception{place}."
        unit(f"{name}branch1", one, inputs, 1)
        unit(f"{name}branch2.0", reduce3, inputs, 1)
        unit(f"{name}branch2.1", three, reduce3, 3)
        unit(f"{name}branch3.0", reduce5, inputs, 1)
        unit(f"{name}branch3.1", five, reduce5, 3)
        unit(f"{name}branch4.1", pool, inputs, 1)
    for aux in ("aux1", "aux2"):
        unit(f"{aux}.conv", 128, 512, 1)
        state.linear(f"{aux}.fc1", 10, 2048)
    state.linear("fc", 10, 1024)
    return state


def efficientnet_torchvision():
    state, inputs = State(), 32

    def unit(name, outputs, inputs, size):
        state.unit(f"{name}.0", f"{name}.1", outputs, inputs, size)

    unit("features.0", 32, 3, 3)
    for group, (size, repeats, outputs, expansion) in enumerate(EFFICIENTNET, start=1):
        for i in range(repeats):
            name, width, place = f"features.{group}.{i}.block.", inputs * expansion, 0
            if expansion > 1:
                unit(f"{name}0", width, inputs, 1)
                place = 1
            unit(f"{name}{place}", width, 1, size)
            state.conv(f"{name}{place + 1}.fc1", inputs // 4, width, 1, bias=True)
            state.conv(f"{name}{place + 1}.fc2", width, inputs // 4, 1, bias=True)
            unit(f"{name}{place + 2}", outputs, width, 1)
            inputs = outputs
    unit("features.8", 1280, 320, 1)
    state.linear("classifier.1", 10, 1280)
    return state


def inverted_timm(table, squeeze):
    """timm's mobilenetv2_100, and efficientnet_b0 with `squeeze`."""
    state, inputs = State(), 32
    state.unit("conv_stem", "bn1", 32, 3, 3)
    for group, (size, repeats, outputs, expansion) in enumerate(table):
        for i in range(repeats):
            name, width, norm = f"blocks.{group}.{i}.", inputs * expansion, 1
            if expansion > 1:
                state.unit(f"{name}conv_pw", f"{name}bn1", width, inputs, 1)
                norm = 2
            state.unit(f"{name}conv_dw", f"{name}bn{norm}", width, 1, size)
            if squeeze:
                state.conv(f"{name}se.conv_reduce", inputs // 4, width, 1, bias=True)
                state.conv(f"{name}se.conv_expand", width, inputs // 4, 1, bias=True)
            last = "conv_pwl" if expansion > 1 else "conv_pw"
            state.unit(f"{name}{last}", f"{name}bn{norm + 1}", outputs, width, 1)
            inputs = outputs
    state.unit("conv_head", "bn2", 1280, 320, 1)
    state.linear("classifier", 10, 1280)
    return state


def darknet53(blurred=False):
    """`blurred`: timm's darknetaa53, whose halving convolutions stand in a sequence with a blur."""
    state, inputs = State(), 32
    state.unit("stem.conv1.conv", "stem.conv1.bn", 32, 3, 3)
    for stage, (repeats, width) in enumerate(((1, 64), (2, 128), (8, 256), (8, 512), (4, 1024))):
        down = f"stages.{stage}.conv_down" + ".0" * blurred
        state.unit(f"{down}.conv", f"{down}.bn", width, inputs, 3)
        for i in range(repeats):
            name = f"stages.{stage}.blocks.{i}."
            state.unit(f"{name}conv1.conv", f"{name}conv1.bn", width // 2, width, 1)
            state.unit(f"{name}conv2.conv", f"{name}conv2.bn", width, width // 2, 3)
        inputs = width
    state.linear("head.fc", 10, 1024)
    return state


BUILDERS = {
    "resnet18": lambda: resnet((2, 2, 2, 2), False),
    "resnet34": lambda: resnet((3, 4, 6, 3), False),
    "resnet50": lambda: resnet((3, 4, 6, 3), True),
    "resnet101": lambda: resnet((3, 4, 23, 3), True),
    "resnet34d": lambda: resnet((3, 4, 6, 3), False, deep=True),
    "resnet50d": lambda: resnet((3, 4, 6, 3), True, deep=True),
    "ecaresnet50": lambda: resnet((3, 4, 6, 3), True, attention=True),
    "vgg13": lambda: vgg((2, 2, 2, 2, 2), False),
    "vgg16": lambda: vgg((2, 2, 3, 3, 3), False),
    "vgg16_bn": lambda: vgg((2, 2, 3, 3, 3), True),
    "vgg19": lambda: vgg((2, 2, 4, 4, 4), False),
    "vgg19_bn": lambda: vgg((2, 2, 4, 4, 4), True),
    "googlenet": googlenet,
    "efficientnet_b0 of torchvision": efficientnet_torchvision,
    "efficientnet_b0 of timm": lambda: inverted_timm(EFFICIENTNET, squeeze=True),
    "mobilenetv2_100": lambda: inverted_timm(MOBILENET, squeeze=False),
    "darknet53": darknet53,
    "darknetaa53": lambda: darknet53(blurred=True),
}

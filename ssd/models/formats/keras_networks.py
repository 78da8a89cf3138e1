"""Layer names of Keras Applications against ours: a function per network, in the order of the forward pass."""

from ssd.models.backbones import mobilenet_v1 as v1
from ssd.models.backbones import mobilenet_v2 as v2
from ssd.models.backbones import resnet, vgg
from ssd.models.formats import topology
from ssd.models.formats.source import Identity, Row, Source
from ssd.models.formats.torch_networks import EFFICIENTNET_REPEATS
from ssd.models.formats.weight_file import CONVENTIONS

MOBILENET_V1_BLOCKS = len(v1.TABLE)  # two more have no place here
MOBILENET_V2_BLOCKS = len(v2.TABLE)  # behind the first; four more have no place here
ADDING = (2, 4, 5, 7, 8, 9, 11, 12)  # blocks of MobileNetV2 that add their input

HEADS = r"(fc\d*|predictions|probs|conv_preds|flatten|dense|avg_pool|normalization|rescaling|logits)(_|\d|$)"


def vgg_rows(depth: int):
    """`block1_conv1`: convolutions with biases, no BN."""
    for stage, count in enumerate(vgg.UNITS[depth], start=1):
        for index in range(count):
            unit = f"block_{stage}{'abcd'[index]}"
            yield Row(f"{unit}_conv_1", f"block{stage}_conv{index + 1}", f"{unit}_bn_1")


def resnet_rows(depth: int):
    """`conv2_block1_1_conv`: stage + 1, unit, place in the unit; 0 is the projection."""
    yield Row("conv1", "conv1_conv", "bn_conv1", "conv1_bn")
    for stage, units in enumerate(resnet.UNITS[depth], start=1):
        for index in range(units):
            ours, theirs = f"block_{stage}{chr(ord('a') + index)}_", f"conv{stage + 1}_block{index + 1}_"
            for i in (1, 2, 3):
                yield Row(f"{ours}conv_{i}", f"{theirs}{i}_conv", f"{ours}bn_{i}", f"{theirs}{i}_bn")
            shortcut, bn = f"{ours}conv_shortcut", f"{ours}bn_shortcut"
            if index == 0:
                yield Row(shortcut, f"{theirs}0_conv", bn, f"{theirs}0_bn")
            else:
                yield Identity(shortcut, bn, like=f"{ours}conv_3")


def resnet50_of_keras_1():
    """`res2a_branch2a`, as in files made before 2019."""
    yield Row("conv1", "conv1", "bn_conv1", "bn_conv1")
    for stage, units in enumerate(resnet.UNITS[50], start=1):
        for unit in "abcdef"[:units]:
            ours, theirs = f"block_{stage}{unit}_", f"{stage + 1}{unit}_branch"
            for i, branch in enumerate(("2a", "2b", "2c"), start=1):
                yield Row(f"{ours}conv_{i}", f"res{theirs}{branch}", f"{ours}bn_{i}", f"bn{theirs}{branch}")
            shortcut, bn = f"{ours}conv_shortcut", f"{ours}bn_shortcut"
            if unit == "a":
                yield Row(shortcut, f"res{theirs}1", bn, f"bn{theirs}1")
            else:
                yield Identity(shortcut, bn, like=f"{ours}conv_3")


def mobilenet_v1():
    """The names are ours: the original toolkit took them from here."""
    yield Row("conv1", "conv1", "conv1_bn", "conv1_bn")
    for i in range(1, MOBILENET_V1_BLOCKS + 1):
        for name in (f"conv_dw_{i}", f"conv_pw_{i}"):
            yield Row(name, name, f"{name}_bn", f"{name}_bn", depthwise="dw" in name)


def mobilenet_v2():
    yield Row("conv1", "Conv1", "bn_conv1", "bn_Conv1")
    for i in range(MOBILENET_V2_BLOCKS + 1):
        prefix = f"block_{i}_" if i else "expanded_conv_"
        for part in ("expand", "depthwise", "project")[0 if i else 1 :]:
            name = f"{prefix}{part}"
            yield Row(name, name, f"{name}_bn", f"{name}_BN", depthwise=part == "depthwise")
        if i in ADDING:
            yield Identity(f"{prefix}projected_inputs", None, like=f"{prefix}project")


def efficientnet_b0():
    """The names are ours: the original toolkit took them from here."""
    yield Row("stem_conv", "stem_conv", "stem_bn", "stem_bn")
    for group, repeats in enumerate(EFFICIENTNET_REPEATS, start=1):
        for r in range(repeats):
            unit = f"block{group}{chr(ord('a') + r)}_"
            convolutions = {"expand_conv": "expand_bn", "dwconv": "bn", "project_conv": "project_bn"}
            for conv, bn in convolutions.items():
                if conv != "expand_conv" or group > 1:
                    bn = f"{unit}{bn}"
                    yield Row(f"{unit}{conv}", f"{unit}{conv}", bn, bn, depthwise=conv == "dwconv")
            for conv in ("se_reduce", "se_expand"):
                yield Row(f"{unit}{conv}", f"{unit}{conv}")
    yield Row("top_conv", "top_conv", "top_bn", "top_bn")


def _source(name, arch, nlayers, rows, stem, probe, notes, *, epsilon, convention, ignored=HEADS):
    return Source(
        f"Keras Applications {name}",
        arch,
        nlayers,
        tuple(rows),
        stem,
        probe,
        CONVENTIONS[convention],
        epsilon,
        ignored,
        notes,
    )


SOURCES = (
    *(
        _source(
            f"VGG{depth}",
            "vgg",
            depth,
            vgg_rows(depth),
            (3, 64),
            ("block5_conv1", (3, 3, 512, 512)),
            topology.VGG + topology.NO_BATCH_NORM,
            epsilon=1e-3,
            convention="caffe",
        )
        for depth in vgg.UNITS
    ),
    *(
        _source(
            f"ResNet{depth}",
            "resnet",
            depth,
            resnet_rows(depth),
            (7, 64),
            ("conv5_block3_2_conv", (3, 3, 512, 512)),
            topology.RESNET,
            epsilon=1.001e-5,
            convention="caffe",
        )
        for depth in (50, 101)
    ),
    _source(
        "ResNet50 (old layer names)",
        "resnet",
        50,
        resnet50_of_keras_1(),
        (7, 64),
        ("res5c_branch2b", (3, 3, 512, 512)),
        topology.RESNET,
        epsilon=1e-3,
        convention="caffe",
    ),
    _source(
        "MobileNet",
        "mobilenet_v1",
        None,
        mobilenet_v1(),
        (3, 32),
        ("conv_pw_11", (1, 1, 512, 512)),
        topology.MOBILENET_V1 + topology.TENSORFLOW_PADDING,
        epsilon=1e-3,
        convention="tf",
        ignored=rf"{HEADS}|conv_(dw|pw)_1[23](_bn)?$",
    ),
    _source(
        "MobileNetV2",
        "mobilenet_v2",
        None,
        mobilenet_v2(),
        (3, 32),
        ("block_12_project", (1, 1, 576, 96)),
        topology.MOBILENET_V2 + topology.TENSORFLOW_PADDING,
        epsilon=1e-3,
        convention="tf",
        ignored=rf"{HEADS}|block_1[3-6]_|Conv_1",
    ),
    _source(
        "EfficientNetB0",
        "efficientnet_b0",
        None,
        efficientnet_b0(),
        (3, 32),
        ("top_conv", (1, 1, 320, 1280)),
        (),
        epsilon=1e-3,
        convention="raw",
    ),
)

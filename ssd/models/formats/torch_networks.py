"""Layer names of torchvision and timm against ours: a function per network, in the order of the forward pass."""

from ssd.models.backbones import efficientnet_b0, resnet, vgg
from ssd.models.backbones.darknet import STAGES_53
from ssd.models.backbones.googlenet import INCEPTIONS
from ssd.models.formats import topology
from ssd.models.formats.source import Identity, Row, Source
from ssd.models.formats.weight_file import CONVENTIONS

RESNETS = (18, 34, 50, 101)  # nobody publishes our 10
FIRE_MODULES = {2: 3, 3: 4, 4: 5, 5: 7, 6: 8, 7: 9, 8: 10, 9: 12}  # fire: index in torchvision's `features`
MOBILENET_V2_REPEATS = (1, 2, 3, 4, 3)  # blocks of equal width; two groups more have no place here
EFFICIENTNET_REPEATS = tuple(units for _, units, *_ in efficientnet_b0.GROUPS)

HEADS = r"(fc|classifier|head|pre_logits|global_pool|attnpool)(\.|$)"
TORCH_EPSILON = 1e-5


def resnet_rows(depth: int):
    """`layer1.0.conv1` and so on; torchvision and timm agree."""
    yield Row("conv1", "conv1", "bn_conv1", "bn1")
    for stage, units in enumerate(resnet.UNITS[depth], start=1):
        for index in range(units):
            ours, theirs = f"block_{stage}{chr(ord('a') + index)}_", f"layer{stage}.{index}."
            last = 2 if depth < 50 else 3
            for i in range(1, last + 1):
                yield Row(f"{ours}conv_{i}", f"{theirs}conv{i}", f"{ours}bn_{i}", f"{theirs}bn{i}")
            shortcut, bn = f"{ours}conv_shortcut", f"{ours}bn_shortcut"
            if index == 0 and (stage > 1 or depth >= 50):
                yield Row(shortcut, f"{theirs}downsample.0", bn, f"{theirs}downsample.1")
            else:
                yield Identity(shortcut, bn, like=f"{ours}conv_{last}")


def vgg_rows(depth: int, batch_norm: bool):
    """`features.<index>`: convolution, BN where there is one, ReLU; a pooling after each stage."""
    index = 0
    for stage, count in enumerate(vgg.UNITS[depth], start=1):
        for unit in "abcd"[:count]:
            bn = f"features.{index + 1}" if batch_norm else None
            yield Row(f"block_{stage}{unit}_conv_1", f"features.{index}", f"block_{stage}{unit}_bn_1", bn)
            index += 3 if batch_norm else 2
        index += 1


def googlenet():
    for ours, theirs in (("conv1", "conv1"), ("conv2_reduce", "conv2"), ("conv2", "conv3")):
        yield Row(ours, f"{theirs}.conv", f"bn_{ours}", f"{theirs}.bn")
    branches = {
        "1x1": "branch1",
        "3x3_reduce": "branch2.0",
        "3x3": "branch2.1",
        "5x5_reduce": "branch3.0",
        "5x5": "branch3.1",
        "pool_proj": "branch4.1",
    }
    for name in INCEPTIONS:
        for branch, place in branches.items():
            ours, theirs = f"inception_{name}_{branch}", f"inception{name}.{place}"
            yield Row(ours, f"{theirs}.conv", f"{ours}_bn", f"{theirs}.bn", size=5 if branch == "5x5" else None)


def squeezenet():
    yield Row("conv1", "features.0")
    for fire, index in FIRE_MODULES.items():
        yield Row(f"fire{fire}_squeeze_conv", f"features.{index}.squeeze")
        yield Row(f"fire{fire}_expand_conv1x1", f"features.{index}.expand1x1")
        yield Row(f"fire{fire}_expand_conv3x3", f"features.{index}.expand3x3")


def _mobilenet_v2(stem: tuple[str, str], block):
    """`block` gives names of the convolutions and BN of block i, the r-th of group g: expansion, depthwise, projection.

    Blocks that keep width and resolution add their input.
    """
    yield Row("conv1", stem[0], "bn_conv1", stem[1])
    places = [(group, r) for group, repeats in enumerate(MOBILENET_V2_REPEATS) for r in range(repeats)]
    for i, (group, r) in enumerate(places):
        ours = f"block_{i}_" if i else "expanded_conv_"
        expand, depthwise, project = block(i, group, r)
        if i:
            yield Row(f"{ours}expand", expand[0], f"{ours}expand_bn", expand[1])
        yield Row(f"{ours}depthwise", depthwise[0], f"{ours}depthwise_bn", depthwise[1], depthwise=True)
        yield Row(f"{ours}project", project[0], f"{ours}project_bn", project[1])
        if r:
            yield Identity(f"{ours}projected_inputs", None, like=f"{ours}project")


def mobilenet_v2_torchvision():
    def block(i, _group, _r):
        inner = f"features.{i + 1}.conv"
        if i == 0:
            return None, (f"{inner}.0.0", f"{inner}.0.1"), (f"{inner}.1", f"{inner}.2")
        return (f"{inner}.0.0", f"{inner}.0.1"), (f"{inner}.1.0", f"{inner}.1.1"), (f"{inner}.2", f"{inner}.3")

    return _mobilenet_v2(("features.0.0", "features.0.1"), block)


def mobilenet_v2_timm():
    def block(i, group, r):
        inner = f"blocks.{group}.{r}"
        if i == 0:
            return None, (f"{inner}.conv_dw", f"{inner}.bn1"), (f"{inner}.conv_pw", f"{inner}.bn2")
        return (
            (f"{inner}.conv_pw", f"{inner}.bn1"),
            (f"{inner}.conv_dw", f"{inner}.bn2"),
            (f"{inner}.conv_pwl", f"{inner}.bn3"),
        )

    return _mobilenet_v2(("conv_stem", "bn1"), block)


def efficientnet_b0_torchvision():
    yield Row("stem_conv", "features.0.0", "stem_bn", "features.0.1")
    for group, repeats in enumerate(EFFICIENTNET_REPEATS, start=1):
        for r in range(repeats):
            ours, theirs = f"block{group}{chr(ord('a') + r)}_", f"features.{group}.{r}.block."
            first = 0 if group == 1 else 1  # group 1 does not expand
            if first:
                yield Row(f"{ours}expand_conv", f"{theirs}0.0", f"{ours}expand_bn", f"{theirs}0.1")
            yield Row(f"{ours}dwconv", f"{theirs}{first}.0", f"{ours}bn", f"{theirs}{first}.1", depthwise=True)
            yield Row(f"{ours}se_reduce", f"{theirs}{first + 1}.fc1")
            yield Row(f"{ours}se_expand", f"{theirs}{first + 1}.fc2")
            yield Row(f"{ours}project_conv", f"{theirs}{first + 2}.0", f"{ours}project_bn", f"{theirs}{first + 2}.1")
    yield Row("top_conv", "features.8.0", "top_bn", "features.8.1")


def efficientnet_b0_timm():
    yield Row("stem_conv", "conv_stem", "stem_bn", "bn1")
    for group, repeats in enumerate(EFFICIENTNET_REPEATS):
        for r in range(repeats):
            ours, theirs = f"block{group + 1}{chr(ord('a') + r)}_", f"blocks.{group}.{r}."
            first = 1 if group == 0 else 2  # number of the depthwise convolution's BN: group 1 does not expand
            if group:
                yield Row(f"{ours}expand_conv", f"{theirs}conv_pw", f"{ours}expand_bn", f"{theirs}bn1")
            yield Row(f"{ours}dwconv", f"{theirs}conv_dw", f"{ours}bn", f"{theirs}bn{first}", depthwise=True)
            yield Row(f"{ours}se_reduce", f"{theirs}se.conv_reduce")
            yield Row(f"{ours}se_expand", f"{theirs}se.conv_expand")
            project = f"{theirs}conv_pwl" if group else f"{theirs}conv_pw"
            yield Row(f"{ours}project_conv", project, f"{ours}project_bn", f"{theirs}bn{first + 1}")
    yield Row("top_conv", "conv_head", "top_bn", "bn2")


def darknet53_timm():
    yield Row("conv1", "stem.conv1.conv", "conv1_bn", "stem.conv1.bn")
    for stage, (_, repeats) in enumerate(STAGES_53, start=1):
        down = f"stages.{stage - 1}.conv_down"
        yield Row(f"conv{stage + 1}", f"{down}.conv", f"conv{stage + 1}_bn", f"{down}.bn")
        for index in range(repeats):
            for i in (1, 2):
                ours, theirs = f"b{stage}_conv{index + 1}_{i}", f"stages.{stage - 1}.blocks.{index}.conv{i}"
                yield Row(ours, f"{theirs}.conv", f"{ours}_bn", f"{theirs}.bn")


def _source(name, arch, nlayers, rows, stem, probe, notes, *, ignored=HEADS, epsilon=TORCH_EPSILON, convention="torch"):
    return Source(name, arch, nlayers, tuple(rows), stem, probe, CONVENTIONS[convention], epsilon, ignored, notes)


SOURCES = (
    *(
        _source(
            f"torchvision or timm resnet{depth}",
            "resnet",
            depth,
            resnet_rows(depth),
            (7, 64),
            (f"layer4.{resnet.UNITS[depth][-1] - 1}.conv2", (3, 3, 512, 512)),
            topology.RESNET + (topology.STRIDE_IN_3X3 if depth >= 50 else ()),
        )
        for depth in RESNETS
    ),
    *(
        _source(
            f"torchvision or timm vgg{depth}{'_bn' * batch_norm}",
            "vgg",
            depth,
            vgg_rows(depth, batch_norm),
            (3, 64),
            (f"features.{5 + 2 * batch_norm}", (3, 3, 64, 128)),
            topology.VGG + (() if batch_norm else topology.NO_BATCH_NORM),
        )
        for depth in vgg.UNITS
        for batch_norm in (True, False)
    ),
    _source(
        "torchvision googlenet",
        "googlenet",
        None,
        googlenet(),
        (7, 64),
        ("inception5b.branch2.1.conv", (3, 3, 192, 384)),
        topology.GOOGLENET,
        ignored=rf"{HEADS}|aux\d\.",
        epsilon=1e-3,
        # Its published weights were trained by TensorFlow; torchvision's `transform_input` undoes the usual means.
        convention="tf",
    ),
    _source(
        "torchvision squeezenet1_0",
        "squeezenet",
        None,
        squeezenet(),
        (7, 96),
        ("features.12.expand3x3", (3, 3, 64, 256)),
        topology.SQUEEZENET,
    ),
    _source(
        "torchvision mobilenet_v2",
        "mobilenet_v2",
        None,
        mobilenet_v2_torchvision(),
        (3, 32),
        ("features.13.conv.2", (1, 1, 576, 96)),
        topology.MOBILENET_V2,
        ignored=rf"{HEADS}|features\.1[4-8]\.",
    ),
    _source(
        "timm mobilenetv2_100",
        "mobilenet_v2",
        None,
        mobilenet_v2_timm(),
        (3, 32),
        ("blocks.4.2.conv_pwl", (1, 1, 576, 96)),
        topology.MOBILENET_V2,
        ignored=rf"{HEADS}|blocks\.[56]\.|conv_head$|bn2$",
    ),
    _source(
        "torchvision efficientnet_b0",
        "efficientnet_b0",
        None,
        efficientnet_b0_torchvision(),
        (3, 32),
        ("features.8.0", (1, 1, 320, 1280)),
        topology.TORCH_PADDING,
    ),
    _source(
        "timm efficientnet_b0",
        "efficientnet_b0",
        None,
        efficientnet_b0_timm(),
        (3, 32),
        ("conv_head", (1, 1, 320, 1280)),
        (*topology.TORCH_PADDING, "read as timm's own efficientnet_b0: its tf_ variants have another BN epsilon, 1e-3"),
    ),
    _source(
        "timm darknet53",
        "darknet",
        53,
        darknet53_timm(),
        (3, 32),
        ("stages.4.conv_down.conv", (3, 3, 512, 1024)),
        topology.TIMM_LEAKY,
    ),
)

"""Every backbone against the tables of the original toolkit: counts, maps, layer names, freeze blocks."""

import re

import keras
import pytest

from ssd.errors import SpecError
from ssd.models.backbones import FAMILIES, backbone
from ssd.models.detector import build_detector, summary
from ssd.models.freeze import apply_freezing
from ssd.spec.config import Regularizer
from ssd.spec.network import ARCHITECTURES

# parameters of the backbone and of the detector, BN statistics, at 3 classes and 6 boxes a cell
TABLE = {
    "resnet10": (4_915_904, 5_768_416, 6_912),
    "resnet18": (11_542_464, 13_291_808, 13_440),
    "resnet34": (22_226_624, 23_975_968, 24_576),
    "resnet50": (38_155_200, 44_893_536, 79_232),
    "resnet101": (75_094_976, 81_833_312, 166_272),
    "vgg16": (14_727_360, 20_679_264, 12_032),
    "vgg19": (20_040_896, 25_992_800, 14_592),
    "darknet19": (19_831_776, 21_850_880, 15_936),
    "darknet53": (40_620_640, 46_505_856, 38_784),
    "googlenet": (5_995_392, 12_195_616, 18_144),
    "mobilenet_v1": (1_627_840, 2_535_648, 15_744),
    "mobilenet_v2": (592_000, 1_265_824, 17_152),
    "squeezenet": (735_424, 1_753_824, 1_024),
    "efficientnet_b0": (4_049_564, 10_128_060, 45_088),
}
MAPS = {300: (38, 19, 10, 5, 3, 2), 512: (64, 32, 16, 8, 4, 2)}
ROUNDED_DOWN = (37, 18, 9, 5, 3, 2)  # at 300, where 2x2 pools halve

# first layers that the heads see, and the last layer of the backbone
TAPS = {
    "resnet10": (["block_2a_relu"], "block_4a_relu"),
    "resnet18": (["block_2b_relu"], "block_4b_relu"),
    "resnet34": (["block_2d_relu"], "block_4c_relu"),
    "resnet50": (["block_2d_relu"], "block_4c_relu"),
    "resnet101": (["block_2d_relu"], "block_4c_relu"),
    "vgg16": (["block_4c_relu"], "block_5c_relu"),
    "vgg19": (["block_4d_relu"], "block_5d_relu"),
    "darknet19": (["b3_conv3_lrelu", "b4_conv5_lrelu"], "b5_conv5_lrelu"),
    "darknet53": (["b3_add8", "b4_add8"], "b5_add4"),
    "googlenet": (["inception_3b_output"], "inception_5b_output"),
    "mobilenet_v1": (["conv_pw_relu_5"], "conv_pw_relu_11"),
    "mobilenet_v2": (["re_lu_7"], "block_12_add"),
    "squeezenet": (["fire8"], "fire9"),
    "efficientnet_b0": (["block4a_expand_activation", "block6a_expand_activation"], "top_activation"),
}


def resnet(units: str, bottleneck: bool = False) -> dict:
    parts = "conv_1 bn_1 conv_2 bn_2 conv_shortcut bn_shortcut" + " conv_3 bn_3" * bottleneck
    blocks = {0: ["conv1", "bn_conv1"]}
    for unit in units.split():
        blocks.setdefault(int(unit[0]), []).extend(f"block_{unit}_{part}" for part in parts.split())
    return blocks


def vgg(units: str) -> dict:
    blocks = {}
    for unit in units.split():
        blocks.setdefault(int(unit[0]), []).extend([f"block_{unit}_conv_1", f"block_{unit}_bn_1"])
    return blocks


def with_bn(blocks: dict) -> dict:
    return {block: [x for name in names.split() for x in (name, f"{name}_bn")] for block, names in blocks.items()}


def darknet53() -> dict:
    blocks = {0: "conv1"}
    for stage, units in ((1, 1), (2, 2), (3, 8), (4, 8), (5, 4)):
        pairs = [f"b{stage}_conv{unit}_1 b{stage}_conv{unit}_2" for unit in range(1, units + 1)]
        blocks[stage] = " ".join([f"conv{stage + 1}", *pairs])
    return with_bn(blocks)


def googlenet() -> dict:
    blocks = {0: ["conv1", "bn_conv1", "conv2_reduce", "bn_conv2_reduce", "conv2", "bn_conv2"]}
    for number, part in enumerate(("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b"), start=1):
        for conv in ("1x1", "3x3_reduce", "3x3", "5x5_reduce", "5x5", "pool_proj"):
            blocks.setdefault(number, []).extend([f"inception_{part}_{conv}", f"inception_{part}_{conv}_bn"])
    return blocks


def mobilenet_v2() -> dict:
    parts = "depthwise depthwise_bn project project_bn"
    blocks = {0: ["conv1", "bn_conv1"], 1: [f"expanded_conv_{part}" for part in parts.split()]}
    for block in range(1, 13):
        names = f"expand expand_bn {parts}" + " projected_inputs" * (block in (2, 4, 5, 7, 8, 9, 11, 12))
        blocks[block + 1] = [f"block_{block}_{name}" for name in names.split()]
    return blocks


def squeezenet() -> dict:
    parts = "squeeze_conv expand_conv1x1 expand_conv3x3"
    return {0: ["conv1"]} | {n - 1: [f"fire{n}_{part}" for part in parts.split()] for n in range(2, 10)}


def efficientnet() -> dict:
    blocks = {0: ["stem_conv", "stem_bn"], 8: ["top_conv", "top_bn"]}
    for unit in ("1a", "2a", "2b", "3a", "3b", "4a", "4b", "4c", "5a", "5b", "5c", "6a", "6b", "6c", "6d", "7a"):
        parts = "dwconv bn se_reduce se_expand project_conv project_bn" + " expand_conv expand_bn" * (unit != "1a")
        blocks.setdefault(int(unit[0]), []).extend(f"block{unit}_{part}" for part in parts.split())
    return blocks


UNITS_34 = "1a 1b 1c 2a 2b 2c 2d 3a 3b 3c 3d 3e 3f 4a 4b 4c"
# freeze block: layers with weights
LAYERS = {
    "resnet10": resnet("1a 2a 3a 4a"),
    "resnet18": resnet("1a 1b 2a 2b 3a 3b 4a 4b"),
    "resnet34": resnet(UNITS_34),
    "resnet50": resnet(UNITS_34, bottleneck=True),
    "resnet101": resnet(
        "1a 1b 1c 2a 2b 2c 2d 3a 3b 3c 3d 3e 3f 3g 3h 3i 3j 3k 3l 3m 3n 3o 3p 3q 3r 3s 3t 3u 3v 3w 4a 4b 4c",
        bottleneck=True,
    ),
    "vgg16": vgg("1a 1b 2a 2b 3a 3b 3c 4a 4b 4c 5a 5b 5c"),
    "vgg19": vgg("1a 1b 2a 2b 3a 3b 3c 3d 4a 4b 4c 4d 5a 5b 5c 5d"),
    "darknet19": with_bn(
        {
            0: "conv1",
            1: "b1_conv1",
            2: "b2_conv1 b2_conv2 b2_conv3",
            3: "b3_conv1 b3_conv2 b3_conv3",
            4: "b4_conv1 b4_conv2 b4_conv3 b4_conv4 b4_conv5",
            5: "b5_conv1 b5_conv2 b5_conv3 b5_conv4 b5_conv5",
        }
    ),
    "darknet53": darknet53(),
    "googlenet": googlenet(),
    "mobilenet_v1": with_bn({0: "conv1"} | {i: f"conv_dw_{i} conv_pw_{i}" for i in range(1, 12)}),
    "mobilenet_v2": mobilenet_v2(),
    "squeezenet": squeezenet(),
    "efficientnet_b0": efficientnet(),
}
# layers without weights whose names the original gave them
WEIGHTLESS = {
    "resnet10": "block_1a_relu_1 block_1a_relu",
    "resnet50": "block_1a_relu_1 block_1a_relu_2 block_1a_relu",
    "vgg16": "block_1a_relu",
    "darknet19": "conv1_lrelu maxpool_1 maxpool_2 maxpool_3 maxpool_4 maxpool_5",
    "darknet53": "conv1_lrelu conv6_lrelu b5_conv4_2_lrelu b1_add1",
    "googlenet": "pool1 pool2 pool3 inception_4b_pool inception_4b_output",
    "mobilenet_v1": "conv1_pad conv_block_relu conv_pad_1 conv_dw_1_relu conv_pw_relu_1",
    "mobilenet_v2": "conv1_pad re_lu_0 expanded_conv_depthwise_pad expanded_conv_relu re_lu_2 re_lu_13 "
    "block_12_depthwise_pad block_12_relu block_2_add",
    "squeezenet": "conv1_relu pool1 pool4 pool8 fire2 fire2_squeeze fire2_expand_1x1 fire2_expand_3x3",
    "efficientnet_b0": "stem_conv_pad stem_activation block2a_dwconv_pad block2a_activation block2b_drop block2b_add "
    "block1a_se_squeeze block1a_se_reshape block1a_se_excite",
}

# Keras' own numbering, which depends on what was built before
AUTOMATIC = re.compile(r"(activation|add|concatenate|max_pooling2d|multiply|reshape|zero_padding2d)(_\d+)?$")

NETWORKS = list(TABLE)
if keras.backend.backend() != "tensorflow":
    # JAX compiles the initialiser of every shape: all of them would take minutes and prove nothing more.
    NETWORKS = ["resnet10", "mobilenet_v1", "squeezenet"]


def split(name: str) -> tuple[str, int | None]:
    """("resnet", 10) of "resnet10", ("mobilenet_v1", None) of "mobilenet_v1"."""
    family = next(arch for arch in ARCHITECTURES if name.startswith(arch))
    return family, int(name[len(family) :]) if name != family else None


@pytest.fixture(scope="module", params=NETWORKS)
def built(request, network):
    """(name, its detector at 512)."""
    arch, nlayers = split(request.param)
    model = build_detector(network(arch=arch, nlayers=nlayers), (512, 512, 3), 3, Regularizer("l2", 1e-4))
    return request.param, model


def check_maps(counts, sizes):
    assert counts.feature_maps == tuple((n, n) for n in sizes)
    assert counts.anchors_per_map == tuple(6 * n * n for n in sizes)


def test_parameters_and_maps_are_those_of_the_table(built):
    name, model = built
    counts = summary(model)
    family = backbone(*split(name))
    inside = sum(layer.count_params() for layer in model.layers if family.block_of(layer.name) is not None)
    assert (inside, counts.parameters, counts.non_trainable) == TABLE[name]
    check_maps(counts, MAPS[512])
    assert counts.anchors == 32_760
    assert counts.name == f"ssd_{split(name)[0]}"
    assert counts.input_shape == (512, 512, 3)


@pytest.mark.parametrize("name", NETWORKS)
def test_maps_of_odd_sizes_round_as_the_original_does(network, name):
    arch, nlayers = split(name)
    counts = summary(build_detector(network(arch=arch, nlayers=nlayers), (300, 300, 3), 3))
    floors = name in ("darknet19", "googlenet")
    check_maps(counts, ROUNDED_DOWN if floors else MAPS[300])
    assert counts.anchors == (10_872 if floors else 11_658)


def test_layers_with_weights_have_the_names_and_the_freeze_blocks_of_the_original(built):
    name, model = built
    family = backbone(*split(name))
    blocks = {}
    for layer in model.layers:
        if layer.weights:
            blocks.setdefault(family.block_of(layer.name), []).append(layer.name)
    outside = blocks.pop(None)
    assert all(layer.startswith(("ssd_conf_", "ssd_loc_", "ssd_expand_block_")) for layer in outside)
    assert {block: sorted(names) for block, names in blocks.items()} == {
        block: sorted(names) for block, names in LAYERS[name].items()
    }
    names = {layer.name for layer in model.layers}
    assert not [layer for layer in names if AUTOMATIC.match(layer)]
    assert set(WEIGHTLESS.get(name, "").split()) <= names
    stem, bn = family.stem
    first = next(layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D))
    assert first.name == stem
    assert bn is None or isinstance(model.get_layer(bn), keras.layers.BatchNormalization)


def test_the_heads_see_the_layers_of_the_original(built):
    name, model = built
    taps, last = TAPS[name]
    first = next(layer for layer in model.layers if layer.name.startswith("ssd_expand_block_"))
    if first.name == "ssd_expand_block_1_conv_0":
        taps = [*taps, last]  # the small ones take the backbone's end for a map
    for index, tap in enumerate(taps):
        for kind in ("conf", "loc"):
            assert model.get_layer(f"ssd_{kind}_{index}").input is model.get_layer(tap).output
    assert first.input is model.get_layer(last).output


def test_the_regulariser_is_on_kernels_of_regular_convolutions_and_batch_norm_has_the_original_constants(built):
    name, model = built
    regularised = {layer.name for layer in model.layers for weight in layer.weights if weight.regularizer is not None}
    assert regularised == {layer.name for layer in model.layers if type(layer) is keras.layers.Conv2D}
    family = backbone(*split(name))
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            slow = name == "mobilenet_v2" and family.block_of(layer.name) is not None
            assert (layer.epsilon, layer.momentum) == (1e-3, 0.999 if slow else 0.99), layer.name
        if isinstance(layer, (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)):
            if family.block_of(layer.name) is None:
                biased = not layer.name.endswith("conv_1")  # heads, and the first of each expansion block
            else:
                biased = name == "squeezenet" or "_se_" in layer.name
            assert layer.use_bias == biased, layer.name


def test_frozen_blocks_take_everything_along(built, network):
    name, model = built
    arch, nlayers = split(name)
    expected = LAYERS[name]
    for blocks in ((min(expected), 2), tuple(expected)):
        frozen = apply_freezing(model, network(arch=arch, nlayers=nlayers, freeze_blocks=blocks))
        assert sorted(frozen) == sorted(layer for block in blocks for layer in expected[block])
    frozen = apply_freezing(model, network(arch=arch, nlayers=nlayers, freeze_bn=True))
    inside = {layer for names in expected.values() for layer in names}
    norms = {layer.name for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)}
    assert set(frozen) == norms & inside
    assert apply_freezing(model, network(arch=arch, nlayers=nlayers)) == []


def test_the_spec_language_and_the_networks_agree():
    assert set(FAMILIES) == set(ARCHITECTURES)
    for arch, (depths, blocks) in ARCHITECTURES.items():
        assert set(FAMILIES[arch].expansion) == set(depths or (None,))
        for depth in depths or ("",):
            assert sorted(LAYERS[f"{arch}{depth}"]) == list(blocks)


@pytest.mark.parametrize(
    ("changes", "message", "hint"),
    [
        ({"arch": "resnet", "nlayers": 20}, "nlayers 20 does not exist for resnet", "10, 18, 34, 50, 101"),
        ({"arch": "vgg", "nlayers": None}, "nlayers is missing", "vgg has 16, 19"),
        ({"arch": "mobilenet_v1", "nlayers": 18}, "nlayers 18 does not exist for mobilenet_v1", "leave it out"),
        ({"arch": "resnext", "nlayers": 50}, 'arch "resnext" is not known', ", ".join(sorted(ARCHITECTURES))),
    ],
)
def test_what_cannot_be_built_is_named(network, changes, message, hint):
    with pytest.raises(SpecError) as caught:
        build_detector(network(**changes), (128, 128, 3), 3)
    assert message in str(caught.value)
    assert hint in caught.value.hint

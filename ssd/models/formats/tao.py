"""TAO's `.hdf5`: Keras 2.2.4 models in channels-first order, backbones and whole SSD detectors, pruned ones too.

Kernels lie there as here (HWIO), and layers bear the same names; the numbers that Keras appends to the names of tensors
say nothing, their order does. Auto-named layers have no weights and are not looked at.
"""

import os
import re
from dataclasses import dataclass

from ssd.errors import ModelError
from ssd.models.backbones import backbone
from ssd.models.formats import tao_groups as groups
from ssd.models.formats.weight_file import CUSTOMARY, Convention, WeightFile
from ssd.spec.config import Network

DETECTOR_PARTS = ("ssd_", "dssd_")
OWN_CLASSES = ("AnchorBoxes", "QDQ", "QuantizedConv2D", "QuantizedConv2DTranspose", "QuantizedDepthwiseConv2D")
# What a layer name tells: of TAO's networks only, not of the public ones of the same architecture.
TAO_NAMES = re.compile(
    r"block_\d[a-z]+_(conv|bn)_\d|b\d_conv\d|inception_\w+_1x1|fire\d_squeeze_conv|d?ssd_|block_\d+_projected_inputs"
)
# The first pattern that a file's layers have tells its network: those of deeper ones before those of shallower ones.
MARKS = (
    (r"block_3w_conv_3", "resnet101"),
    (r"block_1a_conv_3", "resnet50"),
    (r"block_3f_conv_shortcut", "resnet34"),
    (r"block_1b_conv_shortcut", "resnet18"),
    (r"block_1a_conv_shortcut", "resnet10"),
    (r"block_5d_conv_1", "vgg19"),
    (r"block_5c_conv_1", "vgg16"),
    (r"b5_conv4_2", "darknet53"),
    (r"b5_conv5", "darknet19"),
    (r"inception_3a_1x1", "googlenet"),
    (r"expanded_conv_depthwise", "mobilenet_v2"),
    (r"conv_dw_1", "mobilenet_v1"),
    (r"fire2_squeeze_conv", "squeezenet"),
    (r"block1a_dwconv", "efficientnet_b0"),
)


@dataclass(frozen=True)
class Facts:
    """What a file says of itself beside its weights.

    Args:
        network: "resnet18"; None where the layers are of no known one.
        detector: it has heads.
        dssd: it has DSSD's layers.
        input_size: height, width; None in a file of weights only.
        quantized: from quantisation-aware training: its activations are rounded and end at 6.
        anchors: configurations of the layers that make anchors, by feature map.
    """

    network: str | None
    detector: bool
    dssd: bool
    input_size: tuple[int, int] | None
    quantized: bool
    anchors: tuple[dict, ...]


def is_tao(path: str | os.PathLike) -> bool:
    """Whether an HDF5 file is TAO's, and not of the Keras Applications. Raises ModelError for a damaged one."""
    with groups.opened(path) as file:
        config = groups.model_config(file)
        layers = _layers(config)
        group = groups.weights_group(file)
        if groups.has_layer_names(group) and any(map(TAO_NAMES.match, groups.layer_names(group))):
            return True
    return any(
        layer["class_name"] in OWN_CLASSES or layer["config"].get("data_format") == "channels_first" for layer in layers
    )


def facts(path: str | os.PathLike) -> Facts:
    """What is known of a file before its weights are read. Raises ModelError for a damaged one."""
    with groups.opened(path) as file:
        layers = _layers(groups.model_config(file))
        return _facts(groups.layer_names(groups.weights_group(file)), layers)


def read(path: str | os.PathLike, network: Network) -> WeightFile:
    """The weights of the backbone and, in a whole detector, of everything behind it.

    Raises:
        ModelError: a damaged file, or one of another architecture.
    """
    family = backbone(network.arch, network.nlayers)
    with groups.opened(path) as file:
        group = groups.weights_group(file)
        names = groups.layer_names(group)
        known = _facts(names, _layers(groups.model_config(file)))
        if known.network != network.name:
            found = f"a {known.network}" if known.network else "of no network that is known here"
            raise ModelError(f"the file is {found}, the spec says {network.name}", hint="check arch and nlayers")
        layers, unused, scales = {}, [], 0
        for name in names:
            tensors = groups.tensor_names(group, name)
            if name.startswith(DETECTOR_PARTS) or family.block_of(name) is not None:
                if name.endswith("_qdq"):
                    scales += len(tensors)
                elif tensors:
                    layers[name] = groups.tensors(group, name)
            elif name.endswith("_qdq"):
                scales += len(tensors)
            else:
                unused += [tensor if tensor.startswith(name) else f"{name}/{tensor}" for tensor in tensors]
    kind = f"TAO {'dssd' if known.dssd else 'ssd'} {network.name}" if known.detector else f"TAO {network.name} backbone"
    notes = ()
    if known.quantized:
        notes = (
            f"from quantisation-aware training: {scales} scales are left out, and activations do not end at 6 here",
        )
    return WeightFile(
        kind,
        layers,
        _convention(layers, family, known),
        tuple(unused),
        notes,
        prunable=True,
        assumed="as TAO's classifiers are",
    )


def _convention(layers: dict, family, known: Facts) -> Convention | None:
    """A detector's input is in its spec; its classification networks take what Caffe's took."""
    if known.detector or family.stem[0] not in layers:
        return None
    return CUSTOMARY.get(layers[family.stem[0]][0].shape[2])


def _facts(names: list[str], layers: list[dict]) -> Facts:
    network = next((network for mark, network in MARKS if mark in names), None)
    size = None
    for layer in layers:
        shape = layer["config"].get("batch_input_shape")
        # The batch may be there: a graph fed by a pipeline has a fixed one. Rows and columns follow the channels.
        if layer["class_name"] == "InputLayer" and isinstance(shape, list) and len(shape) == 4:
            size = (shape[2], shape[3]) if isinstance(shape[2], int) and isinstance(shape[3], int) else None
            break
    return Facts(
        network=network,
        detector="ssd_conf_0" in names,
        dssd=any(name.startswith("dssd_") for name in names),
        input_size=size,
        quantized=any(layer["class_name"].startswith(("QDQ", "Quantized")) for layer in layers),
        anchors=tuple(layer["config"] for layer in layers if layer["class_name"] == "AnchorBoxes"),
    )


def _layers(config: dict | None) -> list[dict]:
    """The layers' entries of a network's configuration; raises what `opened` calls damage where they are none."""
    if config is None:
        return []
    layers = config["config"]["layers"]
    for layer in layers:
        if not isinstance(layer["class_name"], str) or not isinstance(layer["config"], dict):
            raise ValueError("model_config is no network")
    return layers

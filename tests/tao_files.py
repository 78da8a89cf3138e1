"""TAO-style `.hdf5` files, written with h5py from a table of layers: Keras 2.2.4's layout, nothing of this package."""

import json

import h5py
import numpy as np

# Stages of a ResNet-10, channels of the maps, filters of the expansion's blocks: TAO's table.
STAGES = (64, 128, 256, 512)
EXPANSION = (None, (64, 128), (64, 128), (64, 128), (64, 128))


def resnet10(*, channels=3, heads=(3, 6), keep=1.0, prediction=0, seed=0):
    """`[(name, class, arrays)]` of a ResNet-10 in TAO's order.

    Args:
        heads: classes without the background, boxes a cell; None: the backbone with a classifier behind it.
        keep: part of the filters that pruning kept, in every convolution before the heads.
        prediction: pred_num_channels.
    """
    rng = np.random.default_rng(seed)
    layers = []

    def conv(name, size, inputs, filters, bias=False):
        kernel = rng.normal(0, 1 / np.sqrt(size * size * inputs), (size, size, inputs, filters))
        arrays = [kernel, rng.normal(0, 0.1, filters)] if bias else [kernel]
        layers.append((name, "Conv2D", [array.astype("float32") for array in arrays]))
        return filters

    def bn(name, count):
        arrays = [rng.uniform(low, 1.5, count).astype("float32") for low in (0.5, -1.5, -1.5, 0.5)]
        layers.append((name, "BatchNormalization", arrays))

    def kept(filters):
        return max(8, round(filters * keep / 8) * 8)

    x = conv("conv1", 7, channels, kept(64))
    bn("bn_conv1", x)
    layers.append(("activation_1", "Activation", []))
    maps = []
    for stage, filters in enumerate(STAGES, start=1):
        name = f"block_{stage}a_"
        middle = conv(f"{name}conv_1", 3, x, kept(filters))
        bn(f"{name}bn_1", middle)
        layers.append((f"{name}relu_1", "Activation", []))
        conv(f"{name}conv_2", 3, middle, kept(filters))
        conv(f"{name}conv_shortcut", 1, x, kept(filters))
        x = kept(filters)
        bn(f"{name}bn_2", x)
        bn(f"{name}bn_shortcut", x)
        layers += [(f"add_{stage}", "Add", []), (f"{name}relu", "Activation", [])]
        if stage == 2:
            maps.append(x)
    if heads is None:
        layers.append(("avg_pool", "AveragePooling2D", []))
        kernel = rng.normal(size=(x, 20)).astype("float32")
        layers.append(("predictions", "Dense", [kernel, np.zeros(20, "float32")]))
        return layers
    for block, filters in enumerate(EXPANSION):
        if filters:
            name = f"ssd_expand_block_{block}_"
            middle = conv(f"{name}conv_0", 1, x, kept(filters[0]), bias=True)
            layers.append((f"{name}relu_0", "ReLU", []))
            x = conv(f"{name}conv_1", 3, middle, kept(filters[1]))
            bn(f"{name}bn_1", x)
            layers.append((f"{name}relu_1", "ReLU", []))
        maps.append(x)
    if prediction:
        for index, inputs in enumerate(maps):
            for part, filters in enumerate((prediction // 4, prediction // 4, prediction, prediction)):
                before = inputs if part in (0, 3) else prediction // 4
                conv(f"ssd_mpred_conv_{part}_block_{index}", 1, before, filters)
                bn(f"ssd_mpred_bn_{part}_block_{index}", filters)
        maps = [prediction] * 6
    classes, boxes = heads
    for index, inputs in enumerate(maps):
        conv(f"ssd_conf_{index}", 3, inputs, boxes * (classes + 1), bias=True)
        conv(f"ssd_loc_{index}", 3, inputs, boxes * 4, bias=True)
        layers += [(f"ssd_anchor_{index}", "AnchorBoxes", []), (f"conf_reshape_{index}", "Reshape", [])]
    layers += [(name, "Concatenate", []) for name in ("mbox_conf", "mbox_loc", "mbox_priorbox")]
    return [*layers, ("mbox_conf_softmax_", "Softmax", []), ("ssd_predictions", "Reshape", [])]


PARTS = {
    "Conv2D": ("kernel", "bias"),
    "QuantizedConv2D": ("kernel", "bias"),
    "Dense": ("kernel", "bias"),
    "BatchNormalization": ("gamma", "beta", "moving_mean", "moving_variance"),
    "QDQ": ("scaling_factor",),
}


def quantized(layers):
    """The graph that quantisation-aware training makes of `layers`: other classes, scales between them."""
    made = [("Input_qdq", "QDQ", [np.float32(151.0)])]
    for name, kind, arrays in layers:
        inside = kind == "Conv2D" and not name.startswith(("ssd_conf", "ssd_loc"))
        made.append((name, "QuantizedConv2D" if inside else kind, arrays))
        if not inside and kind not in ("Conv2D", "AnchorBoxes"):
            made.append((f"{name}_qdq", "QDQ", [np.float32(6.0)]))
    return made


def write(
    path,
    layers,
    *,
    size=(128, 128),
    batch=None,
    uniquifier="_1",
    text=lambda name: name.encode(),
    split=None,
    optimizer=False,
    config=True,
    anchors=None,
):
    """Writes `layers` as Keras 2.2.4 would.

    Args:
        batch: of the input's shape, which a pipeline's tensor fixes.
        uniquifier: what the graph put behind a layer's name: `conv1_1/kernel:0` in the group `conv1`.
        text: how attributes hold names: bytes or str.
        split: most names in an attribute; None: all in one.
        optimizer: with the group of a checkpoint.
        config: False: weights only, in the root.
        anchors: `{index: configuration}` of the layers that make anchors.
    """
    channels = next(arrays for name, _, arrays in layers if name == "conv1")[0].shape[2]

    def attribute(group, name, names):
        values = [text(value) for value in names]
        if split is None:
            group.attrs[name] = values
        else:
            for part in range(0, len(values), split):
                group.attrs[f"{name}{part // split}"] = values[part : part + split]

    with h5py.File(path, "w") as file:
        root = file.create_group("model_weights") if config else file
        if config:
            file.attrs["model_config"] = text(json.dumps(model_config(layers, (batch, channels, *size), anchors or {})))
            file.attrs["keras_version"], file.attrs["backend"] = text("2.2.4"), text("tensorflow")
        root.attrs["keras_version"], root.attrs["backend"] = text("2.2.4"), text("tensorflow")
        attribute(root, "layer_names", ["Input", *(name for name, _, _ in layers)])
        root.create_group("Input").attrs["weight_names"] = np.zeros(0)
        for name, kind, arrays in layers:
            group = root.create_group(name)
            names = [f"{name}{uniquifier}/{part}:0" for part in PARTS.get(kind, ())[: len(arrays)]]
            if names:
                attribute(group, "weight_names", names)
            else:
                group.attrs["weight_names"] = np.zeros(0)
            for weight, array in zip(names, arrays, strict=True):
                group.create_dataset(weight, data=array)
        if optimizer:
            file.attrs["training_config"] = text(json.dumps({"optimizer_config": {"class_name": "SGD"}}))
            group = file.create_group("optimizer_weights")
            group.attrs["weight_names"] = [text("SGD/iterations:0"), text("training/SGD/Variable:0")]
            group["SGD/iterations:0"] = np.int64(10)
            group["training/SGD/Variable:0"] = np.zeros((7, 7, 3, 64), "float32")
    return path


def model_config(layers, shape, anchors):
    """`model_config` of a network; of its graph only what a reader could look at."""
    entries = [{"name": "Input", "class_name": "InputLayer", "inbound_nodes": []}]
    entries[0]["config"] = {"batch_input_shape": list(shape), "dtype": "float32", "sparse": False, "name": "Input"}
    before = "Input"
    for name, kind, arrays in layers:
        config = {"name": name, "trainable": True}
        if kind.endswith("Conv2D"):
            config |= {"filters": arrays[0].shape[-1], "data_format": "channels_first", "use_bias": len(arrays) > 1}
        if kind == "AnchorBoxes":
            config |= anchors.get(int(name[-1]), {})
        node = [[[before, 0, 0, {"training": False} if kind == "BatchNormalization" else {}]]]
        entries.append({"name": name, "class_name": kind, "config": config, "inbound_nodes": node})
        before = name
    output = [[before, 0, 0]]
    network = {"name": "ssd_resnet", "layers": entries, "input_layers": [["Input", 0, 0]], "output_layers": output}
    return {"class_name": "Model", "config": network}

"""A detector of a few cells with every kind of layer that an export meets, and graphs made by hand.

Loaded by the fixture `small`; Keras and ONNX are imported where they are used, since this comes with `conftest.py`.
"""

import numpy as np

VARIANCES = (0.1, 0.1, 0.2, 0.2)
CLASSES = 3
CONVOLUTIONS = ("conv1", "dw", "conv2", "up", "ssd_conf_0", "ssd_loc_0", "ssd_conf_1", "ssd_loc_1")


def detector(channels: int = 3, seed: int = 0):
    """16 x 16 images, maps of 8 and 4 cells with two boxes a cell; BN statistics are those of its own activations."""
    import keras

    from ssd.models.batch_norm import BatchNormalization
    from ssd.models.depthwise import DepthwiseConv2D

    layers = keras.layers
    keras.utils.set_random_seed(seed)

    def norm(x, name):
        return BatchNormalization(epsilon=1e-3, name=name)(x)

    images = keras.Input((16, 16, channels), name="Input")
    x = layers.ZeroPadding2D(1, name="conv1_pad")(images)
    x = layers.Conv2D(8, 3, strides=2, use_bias=False, name="conv1")(x)
    x = layers.ReLU(name="relu1")(norm(x, "bn1"))
    y = DepthwiseConv2D(3, padding="same", use_bias=False, name="dw")(x)
    x = layers.Add(name="add")([x, norm(y, "dw_bn")])
    coarse = layers.MaxPooling2D(2, name="pool")(x)
    coarse = layers.Conv2D(8, 3, padding="same", activation="relu", name="conv2")(coarse)
    y = layers.Conv2DTranspose(6, 2, strides=2, use_bias=False, name="up")(coarse)
    fine = layers.Concatenate(name="join")([norm(y, "up_bn"), x])
    heads = {"conf": [], "loc": []}
    for index, features in enumerate((fine, coarse)):
        for kind, values in (("conf", 1 + CLASSES), ("loc", 4)):
            head = layers.Conv2D(2 * values, 3, padding="same", name=f"ssd_{kind}_{index}")(features)
            heads[kind].append(layers.Reshape((-1, values), name=f"{kind}_reshape_{index}")(head))
    logits = layers.Concatenate(axis=1, name="mbox_conf")(heads["conf"])
    offsets = layers.Concatenate(axis=1, name="mbox_loc")(heads["loc"])
    model = keras.Model(images, {"class_logits": logits, "offsets": offsets}, name="small")
    return trained(model, seed)


def trained(model, seed: int = 0, calm: bool = False):
    """`model` with BN statistics that its own activations have, and scales, shifts and biases that are not initial.

    Args:
        calm: residual branches that add little and shifts that leave most units active, as training begins and ends up.
            Without, fifty random layers and more are chaotic: the rounding of float32 grows to 2e-4 in the boxes of a
            ResNet-50 and to 0.2 in those of a ResNet-101 (Keras and ONNX Runtime alike, each against float64).
    """
    import keras

    rng = np.random.default_rng(seed)
    ends = branch_ends(model) if calm else ()
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            size = layer.gamma.shape
            layer.gamma.assign(rng.uniform(0.6, 1.4, size) * (0.2 if layer.name in ends else 1.0))
            layer.beta.assign(rng.normal(0.5 if calm else 0.0, 0.3, size))
            layer.momentum = 0.0  # one batch is enough
        elif getattr(layer, "use_bias", False):
            layer.bias.assign(rng.normal(0, 0.3, layer.bias.shape))
    model(pictures(model, 8, seed), training=True)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.99
    return model


def branch_ends(model) -> set[str]:
    """Names of the BN layers behind which a residual branch is added to its shortcut.

    At the start of a stage of Darknet-53 and EfficientNet the shortcut has such a layer too, and is among them.
    """
    import keras

    from ssd.models.graph import calls

    graph = calls(model)
    makers = {call.output: call for call in graph}
    ends = set()
    for call in graph:
        for tensor in call.inputs if isinstance(call.layer, keras.layers.Add) else ():
            maker = makers[tensor]
            while len(maker.inputs) == 1 and not maker.layer.weights:  # activations, dropouts
                maker = makers[maker.inputs[0]]
            if isinstance(maker.layer, keras.layers.BatchNormalization) and "shortcut" not in maker.layer.name:
                ends.add(maker.layer.name)
    return ends


def pictures(model, count: int, seed: int = 1) -> np.ndarray:
    """float32 `(count,H,W,C)`: smooth, about 100 to each side, as pixels minus mean are."""
    height, width, channels = model.input_shape[1:]
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(-110, 110, (count, height // 4, width // 4, channels))
    return (coarse.repeat(4, 1).repeat(4, 2) + rng.normal(0, 10, (count, height, width, channels))).astype("float32")


def anchors(model, seed: int = 2) -> np.ndarray:
    """Any anchors, as many as `model` has: float32 `(A,4)` corners."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 0.6, (model.output["offsets"].shape[1], 2))
    return np.concatenate([low, low + rng.uniform(0.05, 0.4, low.shape)], axis=1).astype("float32")


def exported(model, **options):
    """The float graph of `model`, BN folded where the caller has folded it."""
    from ssd.deploy.onnx_export import to_onnx

    return to_onnx(model, anchors(model), VARIANCES, **{"opset": 17, **options})


def run(proto, inputs: np.ndarray, optimized: bool = True) -> dict[str, np.ndarray]:
    """The outputs of a graph in ONNX Runtime, by name.

    Args:
        optimized: False: each node as it stands, without fusions.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {session.get_inputs()[0].name: inputs}), strict=True))


def watched(proto, tensors):
    """A copy of a graph that returns these tensors too."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    present = {value.name for value in copy.graph.output}
    for name in tensors:
        if name not in present:
            copy.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return copy


def decoded(logits, offsets, corners, variances=VARIANCES) -> dict[str, np.ndarray]:
    """Boxes and scores in float64, by the formulas of the paper."""
    logits, offsets, corners = (np.asarray(value, np.float64) for value in (logits, offsets, corners))
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    low, high = corners[:, :2], corners[:, 2:]
    middle = (low + high) / 2 + offsets[..., :2] * variances[:2] * (high - low)
    size = (high - low) * np.exp(offsets[..., 2:] * variances[2:])
    return {
        "boxes": np.concatenate([middle - size / 2, middle + size / 2], axis=-1),
        "scores": (weights / weights.sum(-1, keepdims=True))[..., 1:],
    }


def graph_metadata(**changes):
    """What `ssd export` writes into a graph, as short as it may be, with these fields changed."""
    from ssd.deploy.onnx_metadata import Metadata

    fields = {
        "spec": "",
        "classes": ("car", "person"),
        "mean": (103.9, 116.8, 123.7),
        "input_size": (16, 16, 3),
        "data_type": "fp32",
        "nms": "none",
        "pixels": False,
        "spec_sha256": "",
        "anchors_sha256": "",
        "network_sha256": "",
        "versions": {},
    }
    return Metadata(**{**fields, **changes})

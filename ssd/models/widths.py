"""Networks with fewer filters than their table says: those that were pruned."""

import keras
import numpy as np

from ssd.errors import ModelError
from ssd.models import portable

HEADS = ("ssd_conf_", "ssd_loc_")
PREDICTION = "ssd_mpred_conv_"


def pruned_widths(
    layers: dict[str, tuple[np.ndarray, ...]], model: keras.Model, same_modules: bool | None = None
) -> dict[str, int]:
    """Filters by layer of a file whose network is the pruned form of `model`; empty where it is none.

    Pruned: some convolutions before the heads have fewer filters in the file, none has more. Prediction modules of
    another `pred_num_channels` do not count.

    Args:
        layers: layer name -> arrays, the kernel first.
        same_modules: whether the file is of the `pred_num_channels` of `model`; None: its filters tell.

    Raises:
        ModelError: some convolutions have fewer filters in the file and others more.
    """
    widths = {}
    for layer in model.layers:
        if _has_filters(layer) and not layer.name.startswith(HEADS) and layer.name in layers:
            kernel = layers[layer.name][0]
            if kernel.ndim != 4 or kernel.shape[:2] != tuple(layer.kernel_size):
                return {}
            widths[layer.name] = kernel.shape[2 if isinstance(layer, keras.layers.Conv2DTranspose) else 3]
    asked = {name: model.get_layer(name).filters for name in widths}
    if _other_modules(widths, asked) if same_modules is None else not same_modules:
        widths = {name: width for name, width in widths.items() if not name.startswith(PREDICTION)}
    narrower = [name for name, width in widths.items() if width < asked[name]]
    wider = [name for name, width in widths.items() if width > asked[name]]
    if narrower and wider:
        raise ModelError(
            f"no pruned form of the spec's network: some layers have fewer filters "
            f"({_counts(narrower[0], widths, asked)}), others more ({_counts(wider[0], widths, asked)})",
            hint="check arch, nlayers and pred_num_channels",
        )
    return {name: widths[name] for name in narrower}


def with_widths(model: keras.Model, widths: dict[str, int], precision: str | None = None) -> keras.Model:
    """A fresh network like `model` with other filter counts.

    Args:
        widths: layer name -> filters; layers not named keep theirs.
        precision: dtype policy, as `load_model` takes it; None: as `model` has it.

    Raises:
        ModelError: tensors that are added no longer have the same channels.
    """
    config = _without_shapes(keras.saving.serialize_keras_object(model))
    for layer in config["config"]["layers"]:
        if layer["config"]["name"] in widths:
            layer["config"]["filters"] = int(widths[layer["config"]["name"]])
    if precision:
        config = portable.from_stock(config, precision)
    try:
        return keras.saving.deserialize_keras_object(config, safe_mode=True)
    except ValueError as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"the filter counts in the file do not make a network: {reason}") from error


def check_heads(layers: dict[str, tuple[np.ndarray, ...]], model: keras.Model) -> None:
    """A pruned detector is retrained for what it was trained for: its filters were chosen by those classes.

    Raises:
        ModelError: the heads in the file have other classes or boxes than `model`. It may have no heads.
    """

    def differ(found: int, wanted: int, what: str) -> ModelError:
        return ModelError(
            f"the pruned model has {found} {what}, the spec makes {wanted}",
            hint="retrain it with the classes and anchors of its training, or begin with a model that is not pruned",
        )

    for layer in model.layers:
        index = layer.name.rpartition("_")[2]
        loc, conf = (layers.get(f"ssd_{kind}_{index}") for kind in ("loc", "conf"))
        if not layer.name.startswith("ssd_loc_") or loc is None or conf is None:
            continue
        boxes, own_boxes = loc[0].shape[-1] // 4, layer.filters // 4
        if boxes != own_boxes:
            raise differ(boxes, own_boxes, f"boxes a cell on feature map {index}")
        scores, own_scores = conf[0].shape[-1] // boxes, model.get_layer(f"ssd_conf_{index}").filters // boxes
        if scores != own_scores:
            raise differ(scores - 1, own_scores - 1, "classes")


def layer_arrays(model: keras.Model) -> dict[str, tuple[np.ndarray, ...]]:
    """Layer name -> weights, of the layers that have any."""
    return {layer.name: tuple(layer.get_weights()) for layer in model.layers if layer.weights}


def _counts(name: str, widths: dict[str, int], asked: dict[str, int]) -> str:
    return f"{name}: {widths[name]} of {asked[name]}"


def _has_filters(layer) -> bool:
    own = isinstance(layer, (keras.layers.Conv2D, keras.layers.Conv2DTranspose))
    return own and not isinstance(layer, keras.layers.DepthwiseConv2D)


def _other_modules(widths: dict[str, int], asked: dict[str, int]) -> bool:
    """Whether the file's prediction modules are whole ones of another size: P/4, P/4, P and P filters."""
    found = {name: width for name, width in widths.items() if name.startswith(PREDICTION)}
    ratios = {width / asked[name] for name, width in found.items()}
    return len(ratios) == 1 and ratios <= {0.25, 0.5, 2.0, 4.0}


def _without_shapes(node):
    """A copy without the shapes that layers were built for: they follow from the filters."""
    if isinstance(node, list):
        return [_without_shapes(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {key: _without_shapes(value) for key, value in node.items() if key != "build_config"}

"""Network configurations as files hold them: float32 and stock layers, so that a plain Keras on any machine opens them.

Precision and faster layers belong to the machine that runs a network, not to the network. Layers that round belong to a
quantization-aware network: its files keep them and open where this package is.
"""

import keras

from ssd.errors import ModelError
from ssd.models import batch_norm, depthwise
from ssd.quantization import fake_quant  # noqa: F401  its layers are known to Keras once it is imported

# Our layers that run as a stock layer of the same name wherever they are not of use.
FASTER = (batch_norm.BatchNormalization, depthwise.DepthwiseConv2D)
OURS = tuple(
    {
        "module": layer.__module__,
        "class_name": layer.__name__,
        "registered_name": keras.saving.get_registered_name(layer),
    }
    for layer in FASTER
)
STOCK = tuple({"module": "keras.layers", "class_name": layer.__name__, "registered_name": None} for layer in FASTER)
FLOAT_POLICIES = ("float32", "mixed_bfloat16", "mixed_float16")
# A file's configuration names Python modules to import: these only.
OWN_MODULES = ("ssd", "keras", "builtins")


def to_stock(config: dict) -> dict:
    """The configuration to store, from Keras' serialised model: no compilation, float32, stock layers."""
    return _rewrite({**config, "compile_config": None}, OURS, STOCK, lambda _: "float32")


def from_stock(config: dict, precision: str) -> dict:
    """The configuration to build, from a stored one: faster layers, dtype policy `precision`.

    The input and the layers that are outputs stay float32.

    Raises:
        ModelError: the file names Python modules outside Keras and this package.
    """
    if precision not in FLOAT_POLICIES:
        raise ValueError(f"precision {precision}: one of {', '.join(FLOAT_POLICIES)}")
    _check_modules(config)
    network = config.get("config", {})
    outputs = set(_names(network.get("output_layers", [])))

    def policy(layer: str | None) -> str:
        return "float32" if layer in outputs else precision

    return _rewrite({**config, "compile_config": None}, STOCK, OURS, policy)


def _rewrite(node, found: tuple[dict, ...], wanted: tuple[dict, ...], policy, layer: str | None = None):
    """A copy of `node` with layer classes exchanged and every layer's dtype policy set by its name."""
    if isinstance(node, list):
        return [_rewrite(item, found, wanted, policy, layer) for item in node]
    if not isinstance(node, dict):
        return node
    if node.get("class_name") == "DTypePolicy" and node["config"]["name"] in FLOAT_POLICIES:
        # Keras marks policy objects that layers share; by name they are equal, and per layer they may now differ.
        node = {key: value for key, value in node.items() if key != "shared_object_id"}
        return {**node, "config": {**node["config"], "name": policy(layer)}}
    if node.get("class_name") == "__keras_tensor__" and node["config"]["dtype"] in ("bfloat16", "float16"):
        # What a layer was called on; building ignores its dtype, and the file should not tell of a machine.
        return {**node, "config": {**node["config"], "dtype": "float32"}}
    if "inbound_nodes" in node:
        layer = node["config"]["name"]
    for old, new in zip(found, wanted, strict=True):
        if all(node.get(key) == old[key] for key in ("module", "class_name")):
            node = {**node, **new}
            break
    return {key: _rewrite(value, found, wanted, policy, layer) for key, value in node.items()}


def _names(outputs) -> list[str]:
    """Layer names in Keras' nested `output_layers`: [name, node, tensor], in lists or dictionaries."""
    if isinstance(outputs, dict):
        return [name for value in outputs.values() for name in _names(value)]
    if len(outputs) == 3 and isinstance(outputs[0], str):
        return [outputs[0]]
    return [name for value in outputs for name in _names(value)]


def _check_modules(node) -> None:
    for item in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        _check_modules(item)
    if isinstance(node, dict) and isinstance(node.get("module"), str) and "class_name" in node:
        module = node["module"]
        if module.split(".")[0] not in OWN_MODULES:
            raise ModelError(
                f"the network has a layer from the Python module {module}, which is neither Keras' nor ours",
                hint="such a file can run code of its choice; it is not opened",
            )

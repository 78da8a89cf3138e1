"""Zeros around a map as part of the convolution that takes them: an engine then has the map's codes at its input."""

import numpy as np
import onnx
from onnx import helper, numpy_helper


def fold_pads(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Takes out paddings with zeros that only convolutions take; the converter does so but for depthwise ones."""
    graph = proto.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    outputs = {value.name for value in graph.output}
    for pad in [node for node in graph.node if node.op_type == "Pad"]:
        takers = [node for node in graph.node if pad.output[0] in node.input]
        amounts = _zeros_around(pad, constants)
        if amounts is None or pad.output[0] in outputs or not all(_pads_by_number(node) for node in takers):
            continue
        for node in takers:
            own = next((each for each in node.attribute if each.name == "pads"), None)
            before = list(own.ints) if own else [0] * len(amounts)
            for attribute in [each for each in node.attribute if each.name in ("pads", "auto_pad")]:
                node.attribute.remove(attribute)
            node.attribute.append(helper.make_attribute("pads", [a + b for a, b in zip(amounts, before, strict=True)]))
            node.input[0] = pad.input[0]
        graph.node.remove(pad)
    return proto


def _zeros_around(pad: onnx.NodeProto, constants: dict[str, np.ndarray]) -> list[int] | None:
    """Before and behind the two spatial axes, as a convolution has them; None: other values or axes are padded."""
    mode = next((each.s for each in pad.attribute if each.name == "mode"), b"constant")
    amounts, value, axes = [*pad.input[1:], "", ""][:3]
    known = {"": np.zeros(()), **constants}
    if mode != b"constant" or axes or amounts not in constants or value not in known or known[value].any():
        return None
    found = constants[amounts].tolist()
    around = found[2:4] + found[6:8]
    return around if len(found) == 8 and not any(found[:2] + found[4:6]) and min(around) >= 0 else None


def _pads_by_number(node: onnx.NodeProto) -> bool:
    automatic = next((each.s for each in node.attribute if each.name == "auto_pad"), b"NOTSET")
    return node.op_type == "Conv" and automatic in (b"NOTSET", b"VALID")

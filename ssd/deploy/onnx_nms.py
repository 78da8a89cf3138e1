"""Non-maximum suppression behind an exported network: the standard operator, or TensorRT's plugin."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ssd.deploy.onnx_names import BOXES, SCORES
from ssd.spec.config import Nms

SCOPE = "nms"
OUTPUTS = ("num_detections", "detection_boxes", "detection_scores", "detection_classes")


def add_standard(proto: onnx.ModelProto, nms: Nms) -> onnx.ModelProto:
    """NonMaxSuppression with results of fixed shape, K = `top_k` rows an image, best first, padded with zeros.

    The operator returns indices of unknown number. Their scores are scattered into an empty score table, and the best K
    of the table are what `ssd.boxes.nms.suppress` keeps: at most K a class, then the best K of all; ties go to the
    first anchor, then to the first class.

    TensorRT's own layer for the operator takes the best 5000 boxes an image above the threshold, of all classes
    together, ONNX Runtime takes all: with a low threshold and many classes an engine misses some of the weakest.

    Outputs: num_detections int32 `(B,1)`; detection_boxes float32 `(B,K,4)` corners, clipped to the image;
    detection_scores float32 `(B,K)`; detection_classes int32 `(B,K)` from 1.
    """
    graph = proto.graph
    anchors, classes = (_size(graph, SCORES, axis) for axis in (1, 2))
    top_k = min(nms.top_k, anchors * classes)
    build = _Builder(graph)
    constant, node = build.constant, build.node

    by_class = node("Transpose", [SCORES], perm=[0, 2, 1])
    limits = [
        constant("top_k", np.array([nms.top_k], np.int64)),
        constant("iou_threshold", np.array([nms.iou_threshold], np.float32)),
        constant("confidence_threshold", np.array([nms.confidence_threshold], np.float32)),
    ]
    chosen = node("NonMaxSuppression", [BOXES, by_class, *limits])  # (N, 3): image, class, anchor
    values = node("GatherND", [by_class, chosen])
    empty = node("Mul", [by_class, constant("zero", np.array(0, np.float32))])
    table = node("Transpose", [node("ScatterND", [empty, chosen, values])], perm=[0, 2, 1])
    flat = node("Reshape", [table, constant("flat", np.array([-1, anchors * classes], np.int64))])
    scores, places = node("TopK", [flat, constant("rows", np.array([top_k], np.int64))], outputs=2, axis=1)
    real = node("Greater", [scores, constant("nothing", np.array(0, np.float32))])

    width = constant("classes", np.array(classes, np.int64))
    anchor = node("Div", [places, width])
    number = node("Add", [node("Sub", [places, node("Mul", [anchor, width])]), constant("one", np.array(1, np.int64))])
    last = constant("last_axis", np.array([2], np.int64))
    index = node("Expand", [node("Unsqueeze", [anchor, last]), constant("four", np.array([1, 1, 4], np.int64))])
    boxes = node("GatherElements", [BOXES, index], axis=1)
    clipped = node("Clip", [boxes, constant("low", np.array(0, np.float32)), constant("high", np.array(1, np.float32))])
    mask = node("Cast", [real], to=TensorProto.FLOAT)
    counts = node("Cast", [real], to=TensorProto.INT32)
    build.output("Mul", [clipped, node("Unsqueeze", [mask, last])], OUTPUTS[1], TensorProto.FLOAT, (top_k, 4))
    build.output("Mul", [scores, mask], OUTPUTS[2], TensorProto.FLOAT, (top_k,))
    build.output("Mul", [node("Cast", [number], to=TensorProto.INT32), counts], OUTPUTS[3], TensorProto.INT32, (top_k,))
    build.output(
        "ReduceSum", [counts, constant("rows_axis", np.array([1], np.int64))], OUTPUTS[0], TensorProto.INT32, (1,)
    )
    build.finish()
    return proto


def add_efficient(proto: onnx.ModelProto, nms: Nms) -> onnx.ModelProto:
    """The EfficientNMS_TRT plugin, whose four outputs DeepStream and Triton know. Runs in TensorRT only.

    Outputs as of `add_standard`, but boxes are not clipped and detection_classes count from 0.
    """
    graph = proto.graph
    node = helper.make_node(
        "EfficientNMS_TRT",
        [BOXES, SCORES],
        list(OUTPUTS),
        name=f"{SCOPE}/EfficientNMS_TRT",
        domain="TRT",
        plugin_version="1",
        background_class=-1,
        max_output_boxes=nms.top_k,
        score_threshold=nms.confidence_threshold,
        iou_threshold=nms.iou_threshold,
        score_activation=0,
        class_agnostic=0,
        box_coding=0,
    )
    batch = _batch(graph)
    del graph.output[:]
    graph.node.append(node)
    kinds = (TensorProto.INT32, TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.INT32)
    for name, kind, shape in zip(OUTPUTS, kinds, ((1,), (nms.top_k, 4), (nms.top_k,), (nms.top_k,)), strict=True):
        graph.output.append(helper.make_tensor_value_info(name, kind, (batch, *shape)))
    proto.opset_import.append(helper.make_opsetid("TRT", 1))
    return proto


class _Builder:
    """Appends nodes and constants to a graph, under names in the scope of NMS."""

    def __init__(self, graph: onnx.GraphProto):
        self.graph = graph
        self.batch = _batch(graph)
        self.outputs: list[onnx.ValueInfoProto] = []
        self._count = 0

    def constant(self, name: str, value: np.ndarray) -> str:
        self.graph.initializer.append(numpy_helper.from_array(value, f"{SCOPE}/{name}"))
        return f"{SCOPE}/{name}"

    def node(self, kind: str, inputs: list[str], outputs: int = 1, **attributes):
        self._count += 1
        names = [f"{SCOPE}/{kind.lower()}_{self._count}" + (f"_{index}" if index else "") for index in range(outputs)]
        self.graph.node.append(
            helper.make_node(kind, inputs, names, name=f"{SCOPE}/{kind}_{self._count}", **attributes)
        )
        return names[0] if outputs == 1 else names

    def output(self, kind: str, inputs: list[str], name: str, type_: int, shape: tuple) -> None:
        self.graph.node.append(helper.make_node(kind, inputs, [name], name=f"{SCOPE}/{name}"))
        self.outputs.append(helper.make_tensor_value_info(name, type_, (self.batch, *shape)))

    def finish(self) -> None:
        del self.graph.output[:]
        self.graph.output.extend(sorted(self.outputs, key=lambda value: OUTPUTS.index(value.name)))


def _size(graph: onnx.GraphProto, output: str, axis: int) -> int:
    value = next(value for value in graph.output if value.name == output)
    return value.type.tensor_type.shape.dim[axis].dim_value


def _batch(graph: onnx.GraphProto) -> int | str:
    """The batch dimension of the graph's first output: a number, or a name where it is free."""
    first = graph.output[0].type.tensor_type.shape.dim[0]
    return first.dim_value or first.dim_param or "batch"

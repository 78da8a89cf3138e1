"""NMS in the graph against a plain loop and against `ssd.boxes.nms`; the plugin's node as TensorRT documents it."""

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import ops
from onnx import TensorProto, helper

from ssd.boxes.nms import suppress
from ssd.deploy.onnx_nms import OUTPUTS, add_efficient, add_standard
from ssd.spec.config import Nms


def settings(top_k, confidence_threshold=0.3, iou_threshold=0.45):
    return Nms(confidence_threshold=confidence_threshold, iou_threshold=iou_threshold, top_k=top_k, score_bits=0)


def passed_through(anchors, classes, batch="batch"):
    """A graph whose boxes and scores are its inputs."""
    shapes = {"boxes": (batch, anchors, 4), "scores": (batch, anchors, classes)}
    nodes = [helper.make_node("Identity", [f"given_{name}"], [name], name=f"net/{name}") for name in shapes]
    inputs = [
        helper.make_tensor_value_info(f"given_{name}", TensorProto.FLOAT, shape) for name, shape in shapes.items()
    ]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def session(proto):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    made = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda boxes, scores: made.run(None, {"given_boxes": boxes, "given_scores": scores})


def standard(boxes, scores, nms, batch="batch"):
    """num_detections, boxes, scores, classes."""
    return session(add_standard(passed_through(*scores.shape[1:], batch), nms))(boxes, scores)


def plain_overlap(box, others):
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    shared = sides.clip(0).prod(-1)
    both = (box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(-1) - shared
    return shared / np.maximum(both, 1e-300)


def greedy_loop(boxes, scores, nms):
    """One image: (anchor, class from 1) of what stays, best first."""
    boxes, stays = boxes.astype(np.float64), []
    for column in range(scores.shape[1]):
        kept = []
        for anchor in np.argsort(-scores[:, column], kind="stable"):
            better = kept and plain_overlap(boxes[anchor], boxes[kept]).max() > nms.iou_threshold
            if scores[anchor, column] > np.float32(nms.confidence_threshold) and not better and len(kept) < nms.top_k:
                kept.append(anchor)
        stays += [(-scores[anchor, column], anchor, column + 1) for anchor in kept]
    return [(anchor, number) for _, anchor, number in sorted(stays)[: nms.top_k]]


def assert_is_the_greedy_loop(found, boxes, scores, nms):
    counts, found_boxes, found_scores, found_classes = found
    assert [part.dtype for part in found] == [np.int32, np.float32, np.float32, np.int32]
    rows = min(nms.top_k, scores.shape[1] * scores.shape[2])
    images = len(boxes)
    assert [part.shape for part in found] == [(images, 1), (images, rows, 4), (images, rows), (images, rows)]
    for image in range(images):
        expected = greedy_loop(boxes[image], scores[image], nms)
        count = counts[image, 0]
        assert count == len(expected)
        anchors = [anchor for anchor, _ in expected]
        np.testing.assert_array_equal(found_classes[image, :count], [number for _, number in expected])
        np.testing.assert_array_equal(found_scores[image, :count], [scores[image, a, c - 1] for a, c in expected])
        np.testing.assert_array_equal(found_boxes[image, :count], boxes[image, anchors].reshape(-1, 4).clip(0, 1))
        for part in (found_boxes, found_scores, found_classes):
            assert not part[image, count:].any()


def assert_is_our_nms(found, boxes, scores, nms):
    own = suppress(
        ops.convert_to_tensor(boxes),
        ops.convert_to_tensor(scores),
        confidence_threshold=nms.confidence_threshold,
        iou_threshold=nms.iou_threshold,
        top_k=nms.top_k,
    )
    rows = found[1].shape[1]
    np.testing.assert_array_equal(found[0][:, 0], ops.convert_to_numpy(own.valid))
    for part, other in zip(found[1:], (own.boxes, own.scores, own.classes), strict=True):
        np.testing.assert_array_equal(part, ops.convert_to_numpy(other)[:, :rows])


def random_case(rng, images, anchors, classes, kind="plain"):
    """Coordinates are multiples of 1/256, so that every precision agrees on every overlap; some boxes stand out."""
    low = rng.integers(-32, 200, (images, anchors, 2))
    boxes = np.concatenate([low, low + rng.integers(1, 120, low.shape)], -1) / 256
    if kind == "copies":
        boxes = boxes[:, rng.integers(0, max(1, anchors // 6), anchors)]
    scores = rng.random((images, anchors, classes))
    if kind == "ties":
        scores = rng.integers(0, 5, scores.shape) / 4
    elif kind == "sparse":
        scores *= rng.random(scores.shape) < 0.05
    elif kind == "nothing":
        scores *= 0.3
    return boxes.astype(np.float32), scores.astype(np.float32)


@pytest.mark.parametrize("kind", ["plain", "copies", "ties", "sparse", "nothing"])
@pytest.mark.parametrize(
    ("anchors", "classes", "top_k"),
    [(60, 3, 200), (60, 3, 4), (40, 1, 20), (3, 2, 10)],
    ids=["room for all", "top_k binds", "one class", "fewer pairs than top_k"],
)
def test_standard_keeps_what_the_greedy_loop_and_our_nms_keep(kind, anchors, classes, top_k):
    boxes, scores = random_case(np.random.default_rng(anchors), 6, anchors, classes, kind)
    nms = settings(top_k)
    found = standard(boxes, scores, nms)
    assert_is_the_greedy_loop(found, boxes, scores, nms)
    assert_is_our_nms(found, boxes, scores, nms)
    if kind == "nothing":
        assert not any(part.any() for part in found)
    elif anchors > 3:
        assert found[0].any()
    if kind == "plain" and top_k == 4:
        assert (found[0] == 4).all()


@given(
    seed=st.integers(0, 10**6),
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 12), st.integers(1, 4)),
    kind=st.sampled_from(["plain", "copies", "ties"]),
    top_k=st.integers(1, 40),
    thresholds=st.tuples(st.sampled_from([0.0, 0.25, 0.5, 0.9]), st.sampled_from([0.1, 0.5, 0.75, 1.0])),
)
def test_standard_keeps_what_the_greedy_loop_keeps_for_any_settings(seed, sizes, kind, top_k, thresholds):
    boxes, scores = random_case(np.random.default_rng(seed), *sizes, kind)
    nms = settings(top_k, *thresholds)
    assert_is_the_greedy_loop(standard(boxes, scores, nms), boxes, scores, nms)


def test_ties_go_to_the_first_anchor_then_to_the_first_class():
    apart = np.array([[0, 0, 1, 1], [4, 0, 5, 1], [0, 4, 1, 5], [4, 4, 5, 5]], np.float32)[None] / 8
    scores = np.full((1, 4, 2), 0.5, np.float32)
    scores[0, 2, 1] = 0.75
    counts, boxes, _, classes = standard(apart, scores, settings(5))
    assert counts[0, 0] == 5
    np.testing.assert_array_equal(classes[0], [2, 1, 2, 1, 2])
    np.testing.assert_array_equal(boxes[0], apart[0, [2, 0, 0, 1, 1]])
    same = np.repeat(apart[:, :1], 4, axis=1)  # of equal boxes with equal scores the first of each class stays
    counts, _, found, classes = standard(same, scores, settings(5))
    assert counts[0, 0] == 2
    np.testing.assert_array_equal(classes[0], [2, 1, 0, 0, 0])
    np.testing.assert_array_equal(found[0], np.array([0.75, 0.5, 0, 0, 0], np.float32))


def test_a_score_equal_to_the_threshold_is_none_and_an_overlap_equal_to_it_is_no_reason_to_go():
    boxes = np.array([[[0, 0, 1, 1], [0, 0, 1, 0.5], [0, 0, 1, 0.75]]], np.float32)
    scores = np.array([[[1.0], [0.5], [0.25]]], np.float32)
    counts, *_, classes = standard(boxes, scores, settings(3, 0.25, 0.5))
    assert counts[0, 0] == 2  # the second overlaps by a half; the third has no more than the threshold
    np.testing.assert_array_equal(classes, [[1, 1, 0]])
    counts, _, found, _ = standard(boxes, scores, settings(3, 0.2, 0.49))
    assert counts[0, 0] == 1 and found[0, 0] == 1.0


def test_one_image_without_detections_among_others():
    boxes, scores = random_case(np.random.default_rng(3), 3, 30, 2)
    scores[1] = 0
    nms = settings(8)
    found = standard(boxes, scores, nms)
    assert found[0][:, 0].tolist() == [8, 0, 8]
    assert_is_the_greedy_loop(found, boxes, scores, nms)


def test_boxes_outside_the_image_are_clipped_after_suppression():
    # The two differ inside the image by nothing, and altogether by more than half.
    boxes = np.array([[[0.5, 0, 1.5, 1], [0.5, 0, 4, 1]]], np.float32)
    counts, found, *_ = standard(boxes, np.array([[[0.9], [0.8]]], np.float32), settings(2))
    assert counts[0, 0] == 2
    np.testing.assert_array_equal(found[0], [[0.5, 0, 1, 1]] * 2)


@pytest.mark.parametrize("batch", ["batch", 2])
def test_standard_declares_its_outputs_and_passes_the_full_checker(batch):
    proto = add_standard(passed_through(10, 3, batch), settings(7))
    onnx.checker.check_model(proto, full_check=True)
    kinds = [TensorProto.INT32, TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.INT32]
    shapes = [(batch, 1), (batch, 7, 4), (batch, 7), (batch, 7)]
    assert described(proto) == list(zip(OUTPUTS, kinds, shapes, strict=True))
    assert {node.name.partition("/")[0] for node in proto.graph.node} == {"net", "nms"}
    names = [name for node in proto.graph.node for name in node.output]
    assert len(set(names)) == len(names) and len({node.name for node in proto.graph.node}) == len(proto.graph.node)
    # What is declared follows from the operators too.
    for value in proto.graph.output:
        value.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True)
    assert [(kind, shape[1:]) for _, kind, shape in described(inferred)] == [
        (kind, shape[1:]) for kind, shape in zip(kinds, shapes, strict=True)
    ]


def described(proto):
    return [
        (
            value.name,
            value.type.tensor_type.elem_type,
            tuple(dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim),
        )
        for value in proto.graph.output
    ]


@pytest.mark.parametrize("batch", ["batch", 4])
def test_efficient_is_one_plugin_node_with_the_four_outputs(batch):
    proto = add_efficient(passed_through(10, 3, batch), settings(7, 0.3, 0.6))
    node = proto.graph.node[-1]
    assert (node.op_type, node.domain, node.name) == ("EfficientNMS_TRT", "TRT", "nms/EfficientNMS_TRT")
    assert list(node.input) == ["boxes", "scores"]
    assert list(node.output) == ["num_detections", "detection_boxes", "detection_scores", "detection_classes"]
    assert [other.op_type for other in proto.graph.node] == ["Identity", "Identity", "EfficientNMS_TRT"]
    found = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    assert {name: found.pop(name) for name in ("score_threshold", "iou_threshold")} == pytest.approx(
        {"score_threshold": 0.3, "iou_threshold": 0.6}
    )
    assert found == {
        "plugin_version": b"1",
        "background_class": -1,  # there is none among the scores
        "max_output_boxes": 7,
        "score_activation": 0,  # they are probabilities already
        "class_agnostic": 0,
        "box_coding": 0,  # corners
    }
    kinds = [TensorProto.INT32, TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.INT32]
    shapes = [(batch, 1), (batch, 7, 4), (batch, 7), (batch, 7)]
    assert described(proto) == list(zip(OUTPUTS, kinds, shapes, strict=True))
    assert {entry.domain: entry.version for entry in proto.opset_import} == {"": 17, "TRT": 1}
    onnx.checker.check_model(proto)

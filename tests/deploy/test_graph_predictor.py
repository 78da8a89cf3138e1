"""Detections from exported graphs: batches, pixels and NMS over a runner that keeps count, and ONNX Runtime's files."""

import dataclasses
from types import SimpleNamespace

import keras
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from small_networks import graph_metadata

from ssd.boxes.nms import suppress
from ssd.deploy import onnx_session
from ssd.deploy.graph_predictor import GraphPredictor, Runner, graph_input
from ssd.deploy.onnx_metadata import write
from ssd.deploy.onnx_nms import add_efficient, add_standard
from ssd.deploy.onnx_session import open_onnx
from ssd.errors import InputError, ModelError
from ssd.spec.config import Nms

NMS = Nms(confidence_threshold=0.25, iou_threshold=0.5, top_k=6, score_bits=0)
SPEC = SimpleNamespace(nms=NMS, classes=("car", "person"))
MEAN = (103.9, 116.8, 123.7)
METADATA = graph_metadata(mean=MEAN, input_size=(5, 6, 3))
CORNERS = np.array([[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1], [0, 0, 0.5, 0.45], [-0.5, 0, 0.3, 2]], np.float32)


def images(count):
    return np.random.default_rng(count).uniform(0, 1, (count, 5, 6, 3)).astype("float32")


class Counted:
    """A graph without NMS whose scores are the first pixels of each image; keeps its inputs."""

    def __init__(self):
        self.inputs = []

    def __call__(self, inputs):
        assert inputs.flags.c_contiguous
        self.inputs.append(inputs.copy())
        scores = inputs.reshape(len(inputs), -1)[:, :8].reshape(-1, 4, 2).astype("float32")
        return {"scores": scores, "boxes": np.broadcast_to(CORNERS, (len(inputs), 4, 4)).copy()}

    @property
    def sizes(self):
        return [len(each) for each in self.inputs]


def expected_detections(pictures):
    scores = pictures.transpose(0, 3, 1, 2).reshape(len(pictures), -1)[:, :8].reshape(-1, 4, 2)
    boxes = np.broadcast_to(CORNERS, (len(pictures), 4, 4)).copy()
    found = suppress(
        *map(keras.ops.convert_to_tensor, (boxes, scores)), confidence_threshold=0.25, iou_threshold=0.5, top_k=6
    )
    return [keras.ops.convert_to_numpy(part) for part in found]


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


# Batches


@pytest.mark.parametrize(
    ("limits", "sizes"),
    [
        ({}, [7]),
        ({"largest": 3}, [3, 3, 1]),
        ({"largest": 7}, [7]),
        ({"largest": 20}, [7]),
        ({"batch": 4}, [4, 4]),
        ({"batch": 7}, [7]),
        ({"batch": 1}, [1] * 7),
        ({"batch": 16}, [16]),
    ],
    ids=str,
)
def test_images_are_cut_into_calls_filled_up_and_put_together_again(limits, sizes):
    run = Counted()
    pictures = images(7)
    found = GraphPredictor(Runner(run, **limits), METADATA, SPEC).predict(pictures)
    assert run.sizes == sizes
    assert_same(found, expected_detections(pictures))
    assert found.valid.min() > 0
    whole = np.concatenate(run.inputs)
    np.testing.assert_array_equal(whole[:7], pictures.transpose(0, 3, 1, 2))
    assert not whole[7:].any()  # what fills up a batch is empty


def test_batches_of_any_size_follow_each_other():
    predictor = GraphPredictor(Runner(Counted(), largest=4), METADATA, SPEC)
    for count in (2, 5, 1, 8, 3):
        assert_same(predictor.predict(images(count)), expected_detections(images(count)))


def test_images_of_another_size_are_refused():
    predictor = GraphPredictor(Runner(Counted()), METADATA, SPEC)
    assert predictor.input_shape == (5, 6, 3) and predictor.classes == ("car", "person")
    for shape in ((1, 6, 5, 3), (1, 5, 6, 1), (5, 6, 3)):
        with pytest.raises(ModelError, match="do not fit the network input"):
            predictor.predict(np.zeros(shape, "float32"))


# Inputs


def test_a_graph_that_takes_pixels_gets_them_back_as_rgb_bytes():
    rgb = np.random.default_rng(0).integers(0, 256, (3, 5, 6, 3))
    network_input = (rgb[..., ::-1] - np.array(MEAN)).astype("float32")
    run = Counted()
    metadata = dataclasses.replace(METADATA, pixels=True)
    GraphPredictor(Runner(run, batch=4), metadata, SPEC).predict(network_input)
    (seen,) = run.inputs
    assert seen.dtype == np.uint8 and seen.shape == (4, 5, 6, 3)
    np.testing.assert_array_equal(seen[:3], rgb)
    assert not seen[3:].any()


def test_a_gray_graph_that_takes_pixels_gets_three_equal_channels():
    gray = np.random.default_rng(0).integers(0, 256, (2, 5, 6, 1))
    found = graph_input((gray - 117.3).astype("float32"), True, (117.3,))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, gray.repeat(3, axis=-1))


def test_fractions_of_pixels_are_rounded_and_kept_between_0_and_255():
    values = np.array([-3.0, -0.4, 0.4, 0.6, 127.5, 128.5, 254.6, 255.4, 300.0])
    found = graph_input((values - 64).astype("float32").reshape(1, 1, 9, 1), True, (64.0,))
    np.testing.assert_array_equal(found[0, 0, :, 0], [0, 0, 0, 1, 128, 128, 255, 255, 255])


@pytest.mark.parametrize("channels", [1, 3])
def test_other_graphs_get_channels_first(channels):
    pictures = images(2)[..., :channels]
    found = graph_input(pictures, False, MEAN[:channels])
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, np.moveaxis(pictures, 3, 1))


# NMS in the graph


def four_outputs(inputs):
    """Two detections in the first image of a call, none in the second; garbage behind them."""
    count = len(inputs)
    boxes = np.tile(np.array([[-0.5, 0.1, 0.4, 1.5], [0.2, 0.2, 0.3, 0.3], [9, 9, 9, 9]], np.float32), (count, 1, 1))
    return {
        "detection_classes": np.tile(np.array([[1, 0, 7]], np.int32), (count, 1)),
        "detection_scores": np.tile(np.array([[0.9, 0.8, 0.7]], np.float32), (count, 1)),
        "num_detections": np.array([[2], [0]] * count, np.int32)[:count],
        "detection_boxes": boxes,
    }


@pytest.mark.parametrize(("nms", "classes"), [("standard", [1, 0]), ("efficient_nms", [2, 1])])
def test_detections_of_the_graph_are_emptied_behind_their_number_and_clipped(nms, classes):
    metadata = dataclasses.replace(METADATA, nms=nms)
    found = GraphPredictor(Runner(four_outputs, batch=2), metadata, SPEC).predict(images(3))
    assert [part.dtype for part in found] == [np.float32, np.float32, np.int32, np.int32]
    np.testing.assert_array_equal(found.valid, [2, 0, 2])
    for image in (0, 2):
        np.testing.assert_array_equal(found.classes[image], [*classes, 0])
        np.testing.assert_array_equal(found.scores[image], np.array([0.9, 0.8, 0], np.float32))
        corners = np.array([[0, 0.1, 0.4, 1], [0.2, 0.2, 0.3, 0.3], [0, 0, 0, 0]], np.float32)
        np.testing.assert_array_equal(found.boxes[image], corners)
    assert not any(part[1].any() for part in found)


# ONNX Runtime


def picture_graph(anchors=9, classes=2, batch="batch", op="Slice"):
    """A "detector" of pictures `(anchors, 4 + classes)` with one channel: each row is a box and its scores."""
    constants = {"one": [1], "two": [2], "zero": [0], "four": [4], "end": [4 + classes]}
    initializers = [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in constants.items()]
    nodes = [
        helper.make_node("Squeeze", ["Input", "one"], ["rows"], name="net/Squeeze"),
        helper.make_node(op, ["rows", "zero", "four", "two"], ["boxes"], name="net/Slice"),
        helper.make_node("Slice", ["rows", "four", "end", "two"], ["scores"], name="net/Slice_1"),
    ]
    shapes = {
        "Input": (batch, 1, anchors, 4 + classes),
        "boxes": (batch, anchors, 4),
        "scores": (batch, anchors, classes),
    }
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def saved(proto, path, **changes):
    write(proto, dataclasses.replace(METADATA, **{"input_size": (9, 6, 1), "mean": (0.0,), **changes}))
    onnx.save(proto, path)
    return path


def pictures_of_detections(count):
    rng = np.random.default_rng(0)
    low = rng.integers(-20, 160, (count, 9, 2)) / 256
    corners = np.concatenate([low, low + rng.integers(20, 120, low.shape) / 256], axis=-1)
    scores = rng.integers(0, 10, (count, 9, 2)) / 9
    return np.concatenate([corners, scores], axis=-1)[..., None].astype("float32")


@pytest.mark.parametrize("batch", ["batch", 2])
@pytest.mark.parametrize("nms", ["none", "standard"])
def test_a_file_gives_the_detections_of_our_nms(nms, batch, tmp_path):
    proto = picture_graph(batch=batch)
    path = saved(add_standard(proto, NMS) if nms == "standard" else proto, tmp_path / "model.onnx", nms=nms)
    runner, metadata = open_onnx(path, "cpu")
    assert metadata.nms == nms and metadata.classes == ("car", "person")
    assert (runner.batch, runner.largest) == (2 if batch == 2 else None, None)
    pictures = pictures_of_detections(5)
    found = GraphPredictor(runner, metadata, SPEC).predict(pictures)
    own = suppress(
        *map(keras.ops.convert_to_tensor, (pictures[:, :, :4, 0], pictures[:, :, 4:, 0])),
        confidence_threshold=NMS.confidence_threshold,
        iou_threshold=NMS.iou_threshold,
        top_k=NMS.top_k,
    )
    assert found.valid.min() > 1
    assert_same(found, [keras.ops.convert_to_numpy(part) for part in own])


def test_no_provider_means_one_that_is_there(tmp_path):
    runner, _ = open_onnx(saved(picture_graph(), tmp_path / "model.onnx"))
    outputs = runner.run(pictures_of_detections(1).transpose(0, 3, 1, 2))
    assert {name: value.shape for name, value in outputs.items()} == {"boxes": (1, 9, 4), "scores": (1, 9, 2)}


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_provider_that_is_not_there_is_refused(provider, tmp_path, monkeypatch):
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    path = saved(picture_graph(), tmp_path / "model.onnx")
    with pytest.raises(
        InputError, match=f"--provider {provider}: this ONNX Runtime has CPUExecutionProvider"
    ) as caught:
        open_onnx(path, provider)
    assert "onnxruntime-gpu" in caught.value.hint


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_that_does_not_start_is_refused_by_name_and_warned_of_by_default(tmp_path, monkeypatch):
    import onnxruntime

    lines, path = [], saved(picture_graph(), tmp_path / "model.onnx")
    there = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: there)
    monkeypatch.setattr(onnx_session, "warn", lines.append)
    with pytest.raises(InputError, match=r"--provider cuda: ONNX Runtime has CUDA.* and cannot start it here"):
        open_onnx(path, "cuda")
    open_onnx(path, "cpu")
    assert not lines
    open_onnx(path)
    fault = "ONNX Runtime has CUDAExecutionProvider and cannot start it here"
    assert lines == [f"{fault}: CPUExecutionProvider runs the graph"]


def refused(path, message):
    with pytest.raises(ModelError, match=message) as caught:
        open_onnx(path, "cpu")
    assert caught.value.where == str(path)
    return caught.value


def test_a_graph_with_the_plugin_is_refused_with_what_to_do(tmp_path):
    path = saved(add_efficient(picture_graph(), NMS), tmp_path / "model.onnx", nms="efficient_nms")
    error = refused(path, "its NMS is the plugin EfficientNMS_TRT, which only TensorRT runs")
    assert "--nms standard" in error.hint


def test_missing_damaged_and_foreign_files_are_refused(tmp_path):
    path = tmp_path / "model.onnx"
    refused(path, "no such model file")
    onnx.save(picture_graph(), path)
    refused(path, "without this toolkit's metadata")
    contents = saved(picture_graph(), path).read_bytes()
    path.write_bytes(contents[: len(contents) * 2 // 3])
    refused(path, "damaged: not a whole ONNX graph")
    path.write_bytes(b"PK\x03\x04 something else")
    refused(path, "damaged: not a whole ONNX graph")
    path.write_bytes(b"")
    refused(path, "empty")
    refused(tmp_path, "damaged")


def test_a_graph_that_onnx_runtime_cannot_run_is_refused_in_one_line(tmp_path):
    path = saved(picture_graph(op="Slicer"), tmp_path / "model.onnx")
    error = refused(path, "ONNX Runtime cannot open it: .*Slicer")
    assert "\n" not in error.message

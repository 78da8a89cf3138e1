"""The Triton model repository: the configuration read with Triton's schema, what is replaced, what is refused."""

import dataclasses
import os

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from small_networks import graph_metadata

from ssd.deploy.triton import write_triton
from ssd.errors import InputError

COLOUR = graph_metadata(mean=(103.9000015258789, 116.77899932861328, 123.0), input_size=(288, 512, 3), nms="standard")
DETECTIONS = [
    ("num_detections", "INT32", (1,)),
    ("detection_boxes", "FP32", (200, 4)),
    ("detection_scores", "FP32", (200,)),
    ("detection_classes", "INT32", (200,)),
]


def model_config():
    """The part of Triton's model_config.proto that is written, as a message class."""
    field = descriptor_pb2.FieldDescriptorProto
    one, many = field.LABEL_OPTIONAL, field.LABEL_REPEATED
    file = descriptor_pb2.FileDescriptorProto(name="triton_test.proto", package="triton_test", syntax="proto3")
    kinds = file.enum_type.add(name="DataType")
    for number, name in ((0, "INVALID"), (2, "UINT8"), (8, "INT32"), (9, "INT64"), (11, "FP32")):
        kinds.value.add(name=f"TYPE_{name}", number=number)
    tensor = file.message_type.add(name="Tensor")
    tensor.field.add(name="name", number=1, label=one, type=field.TYPE_STRING)
    tensor.field.add(name="data_type", number=2, label=one, type=field.TYPE_ENUM, type_name=".triton_test.DataType")
    tensor.field.add(name="dims", number=3, label=many, type=field.TYPE_INT64)
    file.message_type.add(name="DynamicBatching")
    config = file.message_type.add(name="ModelConfig")
    config.field.add(name="name", number=1, label=one, type=field.TYPE_STRING)
    config.field.add(name="platform", number=2, label=one, type=field.TYPE_STRING)
    config.field.add(name="max_batch_size", number=4, label=one, type=field.TYPE_INT32)
    for number, (name, kind, label) in enumerate(
        (("input", "Tensor", many), ("output", "Tensor", many), ("dynamic_batching", "DynamicBatching", one)), start=5
    ):
        config.field.add(
            name=name, number=number, label=label, type=field.TYPE_MESSAGE, type_name=f".triton_test.{kind}"
        )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("triton_test.ModelConfig"))()


def config_of(folder):
    return text_format.Parse((folder / "config.pbtxt").read_text(), model_config())


def tensors(messages) -> list[tuple]:
    kinds = {2: "UINT8", 8: "INT32", 9: "INT64", 11: "FP32"}
    return [(one.name, kinds[one.data_type], tuple(one.dims)) for one in messages]


@pytest.fixture
def graph(tmp_path):
    path = tmp_path / "export" / "ssd.onnx"
    path.parent.mkdir()
    path.write_bytes(b"a graph")
    return path


@pytest.fixture
def repository(tmp_path):
    return tmp_path / "models"


def test_a_graph_with_standard_nms(graph, repository):
    folder = write_triton(repository, "ssd_demo", graph, COLOUR, DETECTIONS, max_batch=8)
    assert folder == repository / "ssd_demo"
    config = config_of(folder)
    assert (config.name, config.platform, config.max_batch_size) == ("ssd_demo", "onnxruntime_onnx", 8)
    assert config.HasField("dynamic_batching")
    assert tensors(config.input) == [("Input", "FP32", (3, 288, 512))]
    assert tensors(config.output) == [
        ("num_detections", "INT32", (1,)),
        ("detection_boxes", "FP32", (200, 4)),
        ("detection_scores", "FP32", (200,)),
        ("detection_classes", "INT32", (200,)),
    ]
    assert "# Input: BGR, 0 to 255, minus 103.9, 116.779, 123\n" in (folder / "config.pbtxt").read_text()
    assert (folder / "1" / "model.onnx").read_bytes() == b"a graph"
    assert (folder / "labels.txt").read_text().split("\n")[1] == "car"  # these classes count from 1
    assert sorted(path.name for path in folder.iterdir()) == ["1", "config.pbtxt", "labels.txt"]
    assert os.listdir(repository) == ["ssd_demo"]


@pytest.mark.parametrize("suffix", [".engine", ".plan", ".trt"])
def test_an_engine_with_efficient_nms(graph, repository, suffix):
    engine = graph.rename(graph.with_suffix(suffix))
    metadata = dataclasses.replace(COLOUR, nms="efficient_nms")
    folder = write_triton(repository, "ssd", engine, metadata, DETECTIONS, max_batch=1)
    assert config_of(folder).platform == "tensorrt_plan"
    assert os.listdir(folder / "1") == ["model.plan"]
    assert (folder / "labels.txt").read_text() == "car\nperson\n"  # these classes count from 0


def test_a_gray_graph_without_nms(graph, repository):
    metadata = dataclasses.replace(COLOUR, nms="none", mean=(117.3786,), input_size=(300, 300, 1))
    outputs = [("boxes", "FP32", (8732, 4)), ("scores", "FP32", (8732, 2))]
    folder = write_triton(repository, "gray", graph, metadata, outputs, max_batch=2)
    config = config_of(folder)
    assert tensors(config.input) == [("Input", "FP32", (1, 300, 300))]
    assert tensors(config.output) == [("boxes", "FP32", (8732, 4)), ("scores", "FP32", (8732, 2))]
    assert "gray, 0 to 255, minus 117.379" in (folder / "config.pbtxt").read_text()
    assert (folder / "labels.txt").read_text() == "car\nperson\n"


@pytest.mark.parametrize("pixels", [False, True])
def test_a_static_batch_stands_in_every_shape(graph, repository, pixels):
    metadata = dataclasses.replace(COLOUR, pixels=pixels)
    config = config_of(write_triton(repository, "ssd", graph, metadata, DETECTIONS, max_batch=1, static_batch=4))
    assert config.max_batch_size == 0 and not config.HasField("dynamic_batching")
    assert tensors(config.input)[0][2] == ((4, 288, 512, 3) if pixels else (4, 3, 288, 512))
    assert [shape for _, _, shape in tensors(config.output)] == [(4, 1), (4, 200, 4), (4, 200), (4, 200)]


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_go_in_as_they_are(graph, repository, channels):
    metadata = dataclasses.replace(COLOUR, pixels=True, input_size=(288, 512, channels))
    folder = write_triton(repository, "ssd", graph, metadata, [("n", "INT64", (1,))], max_batch=2)
    assert tensors(config_of(folder).input) == [("Input", "UINT8", (288, 512, 3))]
    assert tensors(config_of(folder).output) == [("n", "INT64", (1,))]


def test_a_model_is_replaced_as_a_whole(graph, repository):
    folder = write_triton(repository, "ssd", graph, COLOUR, DETECTIONS, max_batch=8)
    (folder / "2").mkdir()
    engine = graph.with_suffix(".engine")
    engine.write_bytes(b"an engine")
    write_triton(repository, "ssd", engine, COLOUR, DETECTIONS, max_batch=1)
    assert sorted(path.name for path in folder.rglob("*")) == ["1", "config.pbtxt", "labels.txt", "model.plan"]
    assert (folder / "1" / "model.plan").read_bytes() == b"an engine"
    assert config_of(folder).max_batch_size == 1
    assert os.listdir(repository) == ["ssd"]


@pytest.mark.parametrize("failing", [1, 2])
def test_a_failure_leaves_the_old_model(graph, repository, monkeypatch, failing):
    folder = write_triton(repository, "ssd", graph, COLOUR, DETECTIONS, max_batch=8)
    renames, calls = os.rename, []

    def rename(source, target):
        calls.append(source)
        if len(calls) == failing:
            raise OSError("no")
        renames(source, target)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(OSError, match="no"):
        write_triton(repository, "ssd", graph, COLOUR, DETECTIONS, max_batch=1)
    assert config_of(folder).max_batch_size == 8
    assert os.listdir(repository) == ["ssd"]


def refused(match, repository, name, source, metadata=COLOUR, max_batch=8):
    with pytest.raises(InputError, match=match):
        write_triton(repository, name, source, metadata, DETECTIONS, max_batch=max_batch)


def test_what_triton_cannot_serve_is_refused(graph, repository):
    refused("needs an engine", repository, "ssd", graph, dataclasses.replace(COLOUR, nms="efficient_nms"))
    refused("no such file", repository, "ssd", graph.with_name("other.onnx"))
    refused("this is .keras", repository, "ssd", graph.with_suffix(".keras"))
    refused("without suffix", repository, "ssd", graph.with_suffix(""))
    refused("at least 1", repository, "ssd", graph, max_batch=0)
    for name in ("", "..", ".hidden", "a/b", 'a"b', "/tmp/ssd"):
        refused("cannot name a model", repository, name, graph)
    assert not repository.exists()


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_is_no_model_is_never_replaced(graph, repository, kind):
    repository.mkdir()
    taken = repository / "photos"
    if kind == "folder":
        taken.mkdir()
        (taken / "1.jpg").write_bytes(b"a photo")
    else:
        taken.write_bytes(b"a file")
    before = sorted(repository.rglob("*"))
    refused("is no Triton model", repository, "photos", graph)
    assert sorted(repository.rglob("*")) == before

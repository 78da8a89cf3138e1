"""Engines on a device that is made of dictionaries: nothing happens on it before its stream is waited for."""

import hashlib
import json
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
from small_networks import graph_metadata

from ssd.deploy import engine_runner
from ssd.deploy.cuda import Buffer
from ssd.deploy.engine_runner import open_engine
from ssd.deploy.graph_predictor import GraphPredictor
from ssd.deploy.tensorrt_engine import Batches, Sidecar, sidecar_path
from ssd.errors import InputError, ModelError, RunError
from ssd.spec.config import Nms

METADATA = graph_metadata(mean=(1.0, 2.0, 3.0), input_size=(5, 6, 3))
SHAPES = {"boxes": (-1, 4, 4), "Input": (-1, 3, 5, 6), "scores": (-1, 4, 2)}
CORNERS = np.array([[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1], [0, 0, 0.5, 0.45], [0, 0, 0.3, 1]], np.float32)


def network(images):
    return {
        "scores": images.reshape(len(images), -1)[:, :8].reshape(-1, 4, 2),
        "boxes": np.broadcast_to(CORNERS, (len(images), 4, 4)),
    }


FREE = Batches(1, 2, 4)


class Device:
    """Memory by address, and a stream whose work is done when it is waited for."""

    def __init__(self):
        self.stream = 7
        self.arrays, self.queue = {}, []

    def device_name(self):
        return "A100, compute capability 8.0"

    def allocate(self, shape, dtype):
        address = 4096 * (len(self.arrays) + 1)
        self.arrays[address] = np.full(shape, np.nan, dtype)
        return Buffer(np.full(shape, np.nan, dtype), address)

    def to_device(self, buffer, count):
        self.queue.append(lambda: np.copyto(self.arrays[buffer.device][:count], buffer.host[:count]))

    def to_host(self, buffer, count):
        self.queue.append(lambda: np.copyto(buffer.host[:count], self.arrays[buffer.device][:count]))

    def wait(self):
        for work in self.queue:
            work()
        self.queue.clear()


class Engine:
    """As TensorRT's: tensors by index, outputs before and behind the input."""

    num_io_tensors = 3

    def __init__(self, trt):
        self.trt = trt

    def get_tensor_name(self, index):
        return list(SHAPES)[index]

    def get_tensor_shape(self, name):
        return SHAPES[name]

    def get_tensor_dtype(self, name):
        return "FLOAT"

    def get_tensor_mode(self, name):
        return "INPUT" if name == "Input" else "OUTPUT"

    def create_execution_context(self):
        return Context(self.trt)


class Context:
    def __init__(self, trt):
        self.trt, self.addresses, self.shape = trt, {}, None

    def set_tensor_address(self, name, address):
        self.addresses[name] = address

    def set_input_shape(self, name, shape):
        assert name == "Input"
        self.shape = tuple(shape)
        least, most = self.trt.limits
        return least <= shape[0] <= most

    def execute_async_v3(self, stream):
        device = self.trt.device
        assert stream == device.stream and set(self.addresses) == set(SHAPES)
        self.trt.sizes.append(self.shape[0])
        if self.trt.fails:
            self.trt.logger.log("ERROR", "out of memory")
            return False
        device.queue.append(self.compute)
        return True

    def compute(self):
        arrays = {name: self.trt.device.arrays[address] for name, address in self.addresses.items()}
        images = arrays["Input"][: self.shape[0]]
        assert images.shape == self.shape and np.isfinite(images).all()
        for name, value in network(images).items():
            arrays[name][: len(images)] = value


class Trt:
    """The part of TensorRT's module that is used."""

    class ILogger:
        Severity = SimpleNamespace(ERROR="ERROR", INTERNAL_ERROR="INTERNAL_ERROR")

        def __init__(self):
            pass

    TensorIOMode = SimpleNamespace(OUTPUT="OUTPUT", INPUT="INPUT")

    def __init__(self, device):
        self.device, self.sizes, self.limits, self.fails, self.refuses = device, [], (1, 4), False, None
        self.plugins = False

    def init_libnvinfer_plugins(self, logger, namespace):
        assert isinstance(logger, self.ILogger) and namespace == ""
        self.plugins = True

    def nptype(self, kind):
        assert kind == "FLOAT"
        return np.float32

    def Runtime(self, logger):
        self.logger = logger
        return self

    def deserialize_cuda_engine(self, content):
        assert content == b"vtrt engine" and self.plugins
        if self.refuses is not None:
            for text in self.refuses:
                self.logger.log("ERROR", text)
            return None
        return Engine(self)


@pytest.fixture
def trt(monkeypatch):
    fake = Trt(Device())
    monkeypatch.setattr(engine_runner, "installed", lambda name: fake if name == "tensorrt" else None)
    monkeypatch.setattr(engine_runner, "memory", lambda: fake.device)
    return fake


@pytest.fixture
def written(tmp_path):
    """`written(batches)`: the path of an engine with its JSON file."""

    def write(batches=FREE, builder="tensorrt"):
        path = tmp_path / "model.engine"
        path.write_bytes(b"vtrt engine")
        sha256 = hashlib.sha256(b"vtrt engine").hexdigest()
        sidecar = Sidecar(sha256, "", builder, "10.3", "A100, compute capability 8.0", batches, vars(METADATA))
        sidecar_path(path).write_text(json.dumps(asdict(sidecar)))
        return path

    return write


def images(count):
    return np.random.default_rng(count).uniform(0, 1, (count, 3, 5, 6)).astype("float32")


def assert_right(found, inputs):
    for name, value in network(inputs).items():
        np.testing.assert_array_equal(found[name], value)


def test_batches_of_any_size_up_to_the_largest_go_through_the_same_buffers(trt, written):
    runner, metadata = open_engine(written())
    assert (runner.batch, runner.largest) == (None, 4)
    assert metadata == METADATA
    results = [(runner.run(images(count)), images(count)) for count in (4, 1, 3, 2, 4)]
    for found, inputs in results:  # what was returned is not the buffer that later calls write to
        assert set(found) == {"boxes", "scores"} and len(found["boxes"]) == len(inputs)
        assert_right(found, inputs)
    assert trt.sizes == [4, 1, 3, 2, 4]
    assert {array.shape for array in trt.device.arrays.values()} == {(4, 4, 4), (4, 3, 5, 6), (4, 4, 2)}


@pytest.mark.parametrize("batches", [Batches(3, 3, 3), Batches(3, 3, 4)], ids=["static", "at least three"])
def test_fewer_images_than_the_engine_takes_are_filled_up(batches, trt, written):
    trt.limits = (batches.least, batches.most)
    runner, _ = open_engine(written(batches))
    for count in (3, 1, 2):
        found = runner.run(images(count))
        assert len(found["scores"]) == count
        assert_right(found, images(count))
    assert trt.sizes == [3, 3, 3]


def test_a_predictor_cuts_batches_for_the_engine(trt, written):
    spec = SimpleNamespace(nms=Nms(0.25, 0.5, 6, 0), classes=METADATA.classes)
    predictor = GraphPredictor(*open_engine(written()), spec)
    pictures = images(6).transpose(0, 2, 3, 1)
    found = predictor.predict(pictures)
    assert trt.sizes == [4, 2]
    for image in range(6):
        alone = predictor.predict(pictures[image : image + 1])
        for part, other in zip(found, alone, strict=True):
            np.testing.assert_array_equal(part[image], other[0])
    assert found.valid.min() > 0


def test_a_run_that_fails_is_told_with_the_librarys_reason(trt, written):
    runner, _ = open_engine(written())
    trt.fails = True
    with pytest.raises(RunError, match="the engine cannot run 2 images: out of memory"):
        runner.run(images(2))


def test_an_engine_for_another_gpu_or_version_is_refused_with_the_reason(trt, written):
    path = written()
    trt.refuses = ["the engine is for SM80", "and more"]
    with pytest.raises(
        ModelError, match=r"cannot be opened here: the engine is for SM80; built with tensorrt 10\.3 for"
    ) as e:
        open_engine(path)
    assert e.value.where == str(path) and e.value.hint == "build it anew on this machine"
    trt.refuses = []
    with pytest.raises(ModelError, match="TensorRT does not say why"):
        open_engine(path)


def test_another_gpu_of_the_kind_is_warned_of(trt, written, monkeypatch):
    lines = []
    monkeypatch.setattr(engine_runner, "warn", lines.append)
    open_engine(written())
    assert not lines
    trt.device.device_name = lambda: "A10, compute capability 8.6"
    path = written()
    open_engine(path)
    (line,) = lines
    assert line.startswith(f"{path} was built for A100, compute capability 8.0, this is A10, compute capability 8.6")


def test_the_library_that_built_the_engine_is_needed(trt, written):
    with pytest.raises(InputError, match="the engine needs tensorrt_rtx or tensorrt_rtx_bindings"):
        open_engine(written(builder="tensorrt_rtx"))


def test_an_engine_without_its_json_file_is_not_opened(trt, written):
    path = written()
    sidecar_path(path).unlink()
    with pytest.raises(ModelError, match="is not beside it"):
        open_engine(path)
    assert not trt.device.arrays

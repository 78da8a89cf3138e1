"""What a graph says of itself survives the file, and graphs that say nothing or nonsense are refused."""

import hashlib
import json
from types import SimpleNamespace

import keras
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import ssd
from ssd.deploy.onnx_metadata import KEY, Metadata, describe, of_graph, parse, write
from ssd.errors import ModelError

SPEC = SimpleNamespace(
    text='random_seed: 1\nname: "Straße"\n',
    classes=("Fußgänger", "car"),
    augmentation=SimpleNamespace(mean=(103.93900299072266, 116.8, 123.7)),
)
ANCHORS = np.linspace(0, 1, 12, dtype="float32").reshape(3, 4)


@pytest.fixture
def model():
    images = keras.Input((4, 6, 3))
    return keras.Model(images, keras.layers.Conv2D(2, 1, name="c")(images))


def described(model, spec=SPEC, anchors=ANCHORS):
    return describe(model, spec, anchors, data_type="int8", nms="standard", pixels=True)


def graph():
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1,)) for name in ("x", "y")]
    made = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", values[:1], values[1:])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_an_export_is_described_by_its_spec_network_and_versions(model):
    found = described(model)
    assert found.spec == SPEC.text
    assert found.classes == ("Fußgänger", "car")
    assert found.mean == SPEC.augmentation.mean
    assert found.input_size == (4, 6, 3)
    assert (found.data_type, found.nms, found.pixels) == ("int8", "standard", True)
    assert found.spec_sha256 == hashlib.sha256(SPEC.text.encode("utf-8")).hexdigest()
    assert found.anchors_sha256 == hashlib.sha256(ANCHORS.tobytes("C")).hexdigest()
    kernel, bias = model.get_weights()
    assert found.network_sha256 == hashlib.sha256(kernel.tobytes("C") + bias.tobytes("C")).hexdigest()
    assert found.versions == {"ssd": ssd.__version__, "keras": keras.__version__, "onnx": onnx.__version__}


def test_hashes_tell_networks_anchors_and_specs_apart(model):
    before = described(model)
    assert described(model) == before
    kernel, bias = model.get_weights()
    kernel[0, 0, 2, 1] = np.nextafter(kernel[0, 0, 2, 1], np.float32(9))
    model.set_weights([kernel, bias])
    moved = ANCHORS.copy()
    moved[2, 3] += 1e-6
    after = described(model, SimpleNamespace(**vars(SPEC) | {"text": SPEC.text + " "}), moved)
    for name in ("network_sha256", "anchors_sha256", "spec_sha256"):
        assert getattr(before, name) != getattr(after, name)
    # The layout of an array in memory is no part of it.
    assert described(model, anchors=np.asfortranarray(ANCHORS)).anchors_sha256 == before.anchors_sha256


def test_what_is_written_is_read_from_the_file_as_it_was(model, tmp_path):
    metadata = described(model)
    proto = graph()
    proto.metadata_props.add(key="other", value="of the converter")
    write(proto, metadata)
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, tmp_path / "model.onnx")
    loaded = onnx.load(tmp_path / "model.onnx")
    assert of_graph(loaded, "model.onnx") == metadata
    assert [entry.key for entry in loaded.metadata_props] == [KEY]
    assert (loaded.producer_name, loaded.producer_version) == ("ssd", ssd.__version__)
    write(loaded, metadata)  # again: not twice
    assert of_graph(loaded, "") == metadata and len(loaded.metadata_props) == 1


def test_a_graph_of_others_is_refused():
    with pytest.raises(ModelError, match="without this toolkit's metadata") as caught:
        of_graph(graph(), "other.onnx")
    assert caught.value.where == "other.onnx" and "ssd export" in caught.value.hint


WHOLE = dict(vars(Metadata("t", ("a",), (1.0,), (4, 4, 3), "fp32", "none", False, "s", "a", "n", {"ssd": "1"})))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        json.dumps(WHOLE)[:-20],
        "null",
        "[]",
        "3",
        json.dumps({name: value for name, value in WHOLE.items() if name != "nms"}),
        json.dumps({name: value for name, value in WHOLE.items() if name != "classes"}),
        json.dumps(WHOLE | {"unheard_of": 1}),
        json.dumps(WHOLE | {"mean": 3}),
    ],
    ids=[
        "empty",
        "no end",
        "cut",
        "null",
        "list",
        "number",
        "field missing",
        "list missing",
        "unknown field",
        "no list",
    ],
)
def test_damaged_metadata_are_refused(text):
    with pytest.raises(ModelError, match="its metadata are unreadable") as caught:
        parse({KEY: text}, "model.onnx")
    assert caught.value.where == "model.onnx"
    assert parse({KEY: json.dumps(WHOLE)}, "model.onnx") == Metadata(**WHOLE)

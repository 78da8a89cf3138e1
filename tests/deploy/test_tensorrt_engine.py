"""Engines built without a GPU by TensorRT-RTX, what lies beside them, and what is refused before or by the builder."""

import dataclasses
import hashlib
import json
from dataclasses import asdict
from typing import ClassVar

import numpy as np
import onnx
import pytest

pytest.importorskip("tensorflow", reason="networks are converted through TensorFlow")

from small_networks import graph_metadata

from ssd.deploy import tensorrt_engine
from ssd.deploy.onnx_half import to_half
from ssd.deploy.onnx_metadata import write
from ssd.deploy.onnx_nms import add_efficient, add_standard
from ssd.deploy.predictors import ENGINE_MARKS
from ssd.deploy.tensorrt_engine import (
    Batches,
    build_engine,
    builder_module,
    capability_name,
    read_sidecar,
    sidecar_path,
)
from ssd.errors import InputError, ModelError, RunError
from ssd.models.fold import fold_batch_norm
from ssd.quantization.calibration import calibrate
from ssd.quantization.qdq import insert_qdq
from ssd.spec.config import Nms

trt = pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")

METADATA = graph_metadata(spec="random_seed: 1\n", classes=("car", "person", "sign"), versions={"ssd": "1"})


def described(proto, **changes):
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    write(copy, dataclasses.replace(METADATA, **changes))
    return copy


@pytest.fixture(scope="module")
def graphs(small):
    """By data type."""
    model = fold_batch_norm(small.detector())[0]
    plain = small.exported(model)
    images = np.ascontiguousarray(small.pictures(model, 8).transpose(0, 3, 1, 2))
    rounded = insert_qdq(plain, calibrate(plain, [images], "max"))
    forms = {"fp32": plain, "fp16": to_half(plain), "int8": rounded}
    forms["fp32, batch of 2"] = small.exported(model, batch=2)
    return {name: described(proto, data_type=name[:4]) for name, proto in forms.items()}


@pytest.fixture
def path(graphs, tmp_path):
    """The float32 graph in a folder of its own."""
    path = tmp_path / "model.onnx"
    onnx.save(graphs["fp32"], path)
    return path


@pytest.fixture(scope="module")
def built(graphs, tmp_path_factory):
    """A folder with model.onnx, model.engine and its JSON file, not to be changed; and the sidecar."""
    folder = tmp_path_factory.mktemp("built")
    onnx.save(graphs["fp32"], folder / "model.onnx")
    sidecar = build_engine(
        folder / "model.onnx", folder / "model.engine", batches=Batches(1, 2, 4), compute_capability="8.6"
    )
    return folder, sidecar


@pytest.fixture
def engine(built, tmp_path):
    """A copy of the engine's folder."""
    for file in built[0].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path / "model.engine"


# Building


@pytest.mark.parametrize("capability", ["7.5", "8.6", "8.9", "12.0"])
@pytest.mark.parametrize("data_type", ["fp32", "fp16", "int8", "fp32, batch of 2"])
def test_engines_are_built_for_other_gpus_in_every_precision(data_type, capability, graphs, tmp_path):
    onnx.save(graphs[data_type], tmp_path / "model.onnx")
    target = tmp_path / "engines" / "model.engine"
    sidecar = build_engine(tmp_path / "model.onnx", target, batches=Batches(1, 2, 4), compute_capability=capability)
    assert target.stat().st_size > 100_000
    assert target.read_bytes()[:4] in ENGINE_MARKS
    assert sidecar.built_for == f"SM{capability.replace('.', '')}"
    assert sidecar.metadata["data_type"] == data_type[:4]
    assert sorted(file.name for file in target.parent.iterdir()) == ["model.engine", "model.engine.json"]
    assert as_json(read_sidecar(target)[0]) == as_json(sidecar)


def as_json(sidecar):
    return json.loads(json.dumps(asdict(sidecar)))


def test_the_batch_that_a_graph_has_is_that_of_its_engine(graphs, tmp_path):
    onnx.save(graphs["fp32, batch of 2"], tmp_path / "model.onnx")
    target = tmp_path / "model.engine"
    build_engine(tmp_path / "model.onnx", target, batches=Batches(1, 4, 8), compute_capability="8.6")
    assert read_sidecar(target)[0].batches == Batches(2, 2, 2)


def test_the_sidecar_says_what_the_engine_was_built_from_for_and_with(built):
    folder, sidecar = built
    engine, content = (folder / "model.engine").read_bytes(), (folder / "model.onnx").read_bytes()
    assert json.loads((folder / "model.engine.json").read_text()) == {
        "engine_sha256": hashlib.sha256(engine).hexdigest(),
        "onnx_sha256": hashlib.sha256(content).hexdigest(),
        "builder": "tensorrt_rtx",
        "builder_version": trt.__version__,
        "built_for": "SM86",
        "batches": {"least": 1, "usual": 2, "most": 4},
        "metadata": json.loads(json.dumps(vars(METADATA))),
    }
    assert sidecar.batches == Batches(1, 2, 4)
    assert sidecar_path(folder / "model.engine") == folder / "model.engine.json"


def test_an_engine_takes_the_place_of_one_before(path, engine):
    before = engine.read_bytes()
    sidecar = build_engine(path, engine, batches=Batches(), workspace=1 << 28, compute_capability="8.9")
    assert engine.read_bytes() != before
    assert as_json(read_sidecar(engine)[0]) == as_json(sidecar) and sidecar.built_for == "SM89"


# What lies beside it


def test_what_lies_beside_is_read_back(engine, built):
    sidecar, metadata = read_sidecar(engine)
    assert as_json(sidecar) == as_json(built[1])
    assert metadata == METADATA


def test_an_engine_without_its_json_file_is_refused(engine):
    sidecar_path(engine).unlink()
    with pytest.raises(ModelError, match=r"model\.engine\.json is not beside it") as caught:
        read_sidecar(engine)
    assert caught.value.where == str(engine) and "copy both files" in caught.value.hint


def test_a_json_file_of_another_engine_is_refused(engine):
    engine.write_bytes(engine.read_bytes()[:-1] + b"x")
    with pytest.raises(ModelError, match=r"model\.engine\.json is of another engine"):
        read_sidecar(engine)


def test_a_graph_beside_the_engine_that_is_another_is_warned_of(engine, graphs, monkeypatch):
    lines = []
    monkeypatch.setattr(tensorrt_engine, "warn", lines.append)
    read_sidecar(engine)
    assert not lines
    onnx.save(graphs["fp16"], engine.with_suffix(".onnx"))
    read_sidecar(engine)
    assert lines == [f"{engine} was built from another graph than the model.onnx beside it: is it an old one?"]
    engine.with_suffix(".onnx").unlink()
    read_sidecar(engine)
    assert len(lines) == 1


def test_plugins_are_registered_where_the_library_has_them():
    class Library:
        class ILogger:
            pass

        registered: ClassVar = []

        @classmethod
        def init_libnvinfer_plugins(cls, logger, namespace):
            cls.registered.append((logger, namespace))

    logger, messages = tensorrt_engine.start(Library)
    assert Library.registered == [(logger, "")] and messages == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: b"[]",
        lambda content: b"{}",
        lambda content: b"\xff\xfe\x00",
        lambda content: content.replace(b'"builder":', b'"maker":'),
        lambda content: content.replace(b'"least":', b'"lost":'),
        lambda content: content.replace(b'"batches":', b'"lots":'),
    ],
    ids=["empty", "cut", "list", "nothing in it", "no text", "another field", "another batch", "no batches"],
)
def test_a_damaged_json_file_is_refused_by_its_name(damage, engine):
    path = sidecar_path(engine)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ModelError, match="damaged") as caught:
        read_sidecar(engine)
    assert caught.value.where == str(path)


def test_metadata_that_do_not_fit_are_damage_too(engine):
    path = sidecar_path(engine)
    values = json.loads(path.read_text())
    del values["metadata"]["classes"]
    path.write_text(json.dumps(values))
    with pytest.raises(ModelError, match="metadata are unreadable") as caught:
        read_sidecar(engine)
    assert caught.value.where == str(path)


# What is refused


def assert_nothing_left(path):
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("nms", ["standard", "efficient_nms"])
def test_graphs_with_nms_are_refused_with_what_to_do(nms, graphs, path):
    add = {"standard": add_standard, "efficient_nms": add_efficient}[nms]
    proto = add(described(graphs["fp32"]), Nms(0.3, 0.5, 10, 0))
    onnx.save(described(proto, nms=nms), path)
    with pytest.raises(InputError, match=f"TensorRT-RTX has no NMS, the graph's is {nms}") as caught:
        build_engine(path, path.with_suffix(".engine"), batches=Batches(), compute_capability="8.6")
    assert caught.value.hint == "export with --nms none"
    assert_nothing_left(path)


def test_an_unknown_compute_capability_lists_the_known_ones(path):
    with pytest.raises(InputError, match=r"--compute_capability 5\.0: .* builds for 7\.5, .*8\.6, .*12\.0"):
        build_engine(path, path.with_suffix(".engine"), batches=Batches(), compute_capability="5.0")
    assert_nothing_left(path)


@pytest.mark.parametrize(
    ("text", "name"), [("8.6", "SM86"), ("86", "SM86"), ("SM86", "SM86"), ("sm_89", "SM89"), ("12.0", "SM120")]
)
def test_compute_capabilities_are_understood_as_people_write_them(text, name):
    assert capability_name(text, trt) == name


@pytest.mark.parametrize("text", ["", "8", "ampere", "8.6.1", "current"])
def test_what_is_no_compute_capability_is_refused(text):
    with pytest.raises(InputError, match="--compute_capability"):
        capability_name(text, trt)


@pytest.mark.parametrize("node", ["decode/Softmax", "conv2/Conv"])
def test_a_graph_that_the_parser_refuses_names_the_node(node, graphs, path):
    proto = described(graphs["fp32"])
    (wrong,) = (each for each in proto.graph.node if each.name == node)
    if wrong.op_type == "Softmax":
        wrong.op_type = "SoftMost"  # unknown
    else:
        wrong.input[0] = "nowhere"
    onnx.save(proto, path)
    with pytest.raises(InputError, match=f"tensorrt_rtx cannot take the graph: node {node}: ") as caught:
        build_engine(path, path.with_suffix(".engine"), batches=Batches(), compute_capability="8.6")
    assert caught.value.where == str(path)
    assert_nothing_left(path)


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"batches": Batches(4, 2, 1)}, "MIN<=OPT<=MAX"), ({"batches": Batches(), "workspace": 1}, "workspace limit")],
)
def test_a_build_that_fails_gives_the_builders_reason_in_one_line(options, reason, path):
    with pytest.raises(RunError, match="tensorrt_rtx cannot build the engine: ") as caught:
        build_engine(path, path.with_suffix(".engine"), **options, compute_capability="8.6")
    assert reason in caught.value.message and "\n" not in caught.value.message
    assert_nothing_left(path)


def test_files_that_are_no_graphs_of_ours_are_refused(graphs, path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match="damaged: not a whole ONNX graph"):
        build_engine(path, path.with_suffix(".engine"), batches=Batches(), compute_capability="8.6")
    proto = described(graphs["fp32"])
    del proto.metadata_props[:]
    onnx.save(proto, path)
    with pytest.raises(ModelError, match="without this toolkit's metadata"):
        build_engine(path, path.with_suffix(".engine"), batches=Batches(), compute_capability="8.6")
    assert_nothing_left(path)


def test_an_engine_that_cannot_be_written_whole_leaves_nothing(path, monkeypatch):
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        build_engine(path, path.with_suffix(".engine"), batches=Batches(), compute_capability="8.6")
    assert_nothing_left(path)


def test_the_builder_follows_from_the_compute_capability_and_a_missing_one_is_said(monkeypatch):
    assert builder_module("8.6") == ("tensorrt_rtx", trt)
    monkeypatch.setattr(tensorrt_engine, "installed", lambda name: None)
    with pytest.raises(InputError, match="TensorRT-RTX is not installed") as caught:
        builder_module("8.6")
    assert "ssd[tensorrt-rtx]" in caught.value.hint
    with pytest.raises(InputError, match=r"^TensorRT is not installed") as caught:
        builder_module(None)
    assert "--compute_capability" in caught.value.hint

"""The committed protobuf classes are those of proto/."""

import importlib.util
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from ssd.spec import dataset_convert_pb2, experiment_pb2

REPOSITORY = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("module", [experiment_pb2, dataset_convert_pb2], ids=lambda module: module.DESCRIPTOR.name)
def test_generated_code_is_current(module, tmp_path):
    protoc = pytest.importorskip("grpc_tools.protoc", reason="grpcio-tools, of the dev extra, is not installed")
    name = module.DESCRIPTOR.name
    described = tmp_path / "described"
    # The descriptor, not the text of the module: that also names the version of protoc.
    arguments = [f"--proto_path={REPOSITORY / 'proto'}", f"--descriptor_set_out={described}", name]
    assert protoc.main(["protoc", *arguments]) == 0
    fresh = described.read_bytes()
    committed = FileDescriptorProto()
    module.DESCRIPTOR.CopyToProto(committed)
    from google.protobuf.descriptor_pb2 import FileDescriptorSet

    (expected,) = FileDescriptorSet.FromString(fresh).file
    # Python's pool leaves out the default JSON names and may add them; they carry nothing of their own.
    for description in (expected, committed):
        _drop_json_names(description.message_type)
    assert committed == expected, "run scripts/generate_proto.py"


def test_the_script_writes_both_modules(tmp_path):
    pytest.importorskip("grpc_tools.protoc", reason="grpcio-tools, of the dev extra, is not installed")
    path = REPOSITORY / "scripts" / "generate_proto.py"
    specification = importlib.util.spec_from_file_location("generate_proto", path)
    script = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(script)
    script.generate(tmp_path)
    written = sorted(file.name for file in tmp_path.rglob("*_pb2.py"))
    assert written == ["dataset_convert_pb2.py", "experiment_pb2.py"]
    assert "generate_proto" not in sys.modules


def test_scalars_know_whether_they_are_given():
    for name, message in experiment_pb2.DESCRIPTOR.message_types_by_name.items():
        for field in message.fields:
            assert field.is_repeated or field.has_presence, f"{name}.{field.name}"


def _drop_json_names(messages):
    for message in messages:
        for field in message.field:
            field.ClearField("json_name")
        _drop_json_names(message.nested_type)

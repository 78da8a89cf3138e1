"""The committed protobuf classes are those of proto/."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

from ssd.spec import dataset_convert_pb2, experiment_pb2

REPOSITORY = Path(__file__).parent.parent.parent
needs_protoc = pytest.mark.skipif(
    importlib.util.find_spec("grpc_tools") is None, reason="grpcio-tools, of the dev extra, is not installed"
)


@needs_protoc
@pytest.mark.parametrize("module", [experiment_pb2, dataset_convert_pb2], ids=lambda module: module.DESCRIPTOR.name)
def test_generated_code_is_current(module, tmp_path):
    described = tmp_path / "described"
    # The descriptor, not the text of the module: that also names the version of protoc.
    arguments = [f"--proto_path={REPOSITORY / 'proto'}", f"--descriptor_set_out={described}", module.DESCRIPTOR.name]
    # A process of its own: protoc and TensorFlow in one process bring two copies of protobuf's C++ code, and crash.
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *arguments], check=True)
    fresh = described.read_bytes()
    committed = FileDescriptorProto()
    module.DESCRIPTOR.CopyToProto(committed)
    (expected,) = FileDescriptorSet.FromString(fresh).file
    # Python's pool leaves out the default JSON names and may add them; they carry nothing of their own.
    for description in (expected, committed):
        _drop_json_names(description.message_type)
    assert committed == expected, "run scripts/generate_proto.py"


@needs_protoc
def test_the_script_writes_both_modules(tmp_path):
    script = REPOSITORY / "scripts" / "generate_proto.py"
    subprocess.run([sys.executable, str(script), str(tmp_path)], check=True)
    written = sorted(file.name for file in tmp_path.rglob("*_pb2.py"))
    assert written == ["dataset_convert_pb2.py", "experiment_pb2.py"]


def test_scalars_know_whether_they_are_given():
    for name, message in experiment_pb2.DESCRIPTOR.message_types_by_name.items():
        for field in message.fields:
            assert field.is_repeated or field.has_presence, f"{name}.{field.name}"


def _drop_json_names(messages):
    for message in messages:
        for field in message.field:
            field.ClearField("json_name")
        _drop_json_names(message.nested_type)

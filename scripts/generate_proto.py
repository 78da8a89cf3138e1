"""Writes ssd/spec/*_pb2.py from proto/ssd/spec/*.proto: `python scripts/generate_proto.py [FOLDER]`.

Needs grpcio-tools (in the `dev` extra). FOLDER is where the package path starts: the repository by default.
What is committed comes from grpcio-tools 1.76: generated code refuses a protobuf older than itself, and this one
still runs with 6.31, the oldest that TensorFlow takes.
"""

import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent


def generate(folder: Path) -> None:
    """Compiles every .proto below proto/ into `folder`. Raises SystemExit with protoc's code when it fails."""
    from grpc_tools import protoc

    root = REPOSITORY / "proto"
    sources = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.proto"))
    code = protoc.main(["protoc", f"--proto_path={root}", f"--python_out={folder}", *sources])
    if code:
        raise SystemExit(code)


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else REPOSITORY)

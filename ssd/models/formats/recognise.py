"""What kind of model file a path names, by its first bytes; a file that cannot be used says what it is and the cure."""

import os
import struct
import zipfile
from pathlib import Path

from ssd.errors import ModelError
from ssd.models.formats.darknet_header import header_length

KERAS, HDF5, SAFETENSORS, DARKNET = "keras", "hdf5", "safetensors", "darknet"
HEAD = 512  # bytes that are looked at
ANY_SOURCE = "weights are read from .keras, .hdf5, .h5, .safetensors and Darknet's .weights"
TO_SAFETENSORS = (
    "convert it where torch is installed: "
    "state = torch.load(FILE, map_location='cpu', weights_only=True); "
    "safetensors.torch.save_file({k: v.contiguous() for k, v in state.items()}, 'weights.safetensors')"
)
PICKLE = "a pickled PyTorch model, which can run code when opened: it is not opened"

# (where in the file, bytes there, what it is, cure)
STRANGERS = (
    (0, b"ftrt", "a TensorRT engine", "use the .keras or .hdf5 file it was built from"),
    (0, b"ptrt", "a TensorRT engine", "use the .keras or .hdf5 file it was built from"),
    (4, b"TFL3", "a TensorFlow Lite model", "use the model it was converted from"),
    (0, b"version https://git-lfs", "a Git LFS pointer, not the file itself", "fetch the file: git lfs pull"),
    (0, b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (0, b"\xfd7zXZ", "an xz archive", "unpack it first"),
    (0, b"Salted__", "an encrypted file", "decrypt it first"),
    (257, b"ustar", "a tar archive", "unpack it first"),
)
# Kinds without a mark in their content.
SUFFIXES = {
    ".tlt": ("an encrypted TAO model", "save it unencrypted (.hdf5) with TAO"),
    ".etlt": ("an encrypted TAO export", "it holds no trainable network: use the .hdf5 file it was made from"),
    ".onnx": ("an exported network", "use the .keras or .hdf5 file it was exported from"),
    ".engine": ("a TensorRT engine", "use the .keras or .hdf5 file it was built from"),
    ".trt": ("a TensorRT engine", "use the .keras or .hdf5 file it was built from"),
    ".plan": ("a TensorRT engine", "use the .keras or .hdf5 file it was built from"),
    ".pb": ("a TensorFlow graph", "use the Keras model it was made from"),
    ".pth": (PICKLE, TO_SAFETENSORS),
    ".pt": (PICKLE, TO_SAFETENSORS),
}


def recognise(path: str | os.PathLike) -> str:
    """KERAS (a zip archive), HDF5, SAFETENSORS or DARKNET.

    Raises:
        ModelError: there is no file, it cannot be read, or it is of another kind.
    """
    path = Path(path).expanduser()
    head, size = _head(path)
    if not head:
        raise ModelError("empty", where=str(path))
    if head.startswith(b"PK"):
        return _zip(path)
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return HDF5
    if _is_safetensors(head, size):
        return SAFETENSORS
    if head[0] == 0x80 and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        raise ModelError(PICKLE, where=str(path), hint=TO_SAFETENSORS)
    for offset, mark, what, cure in STRANGERS:
        if head[offset : offset + len(mark)] == mark:
            raise ModelError(f"{what}, which holds no weights for training", where=str(path), hint=cure)
    if _is_darknet(head, size):
        return DARKNET
    if _is_text(head):
        page = head.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html"))
        what = "a web page: its download went wrong" if page else "a text file, not a model file"
        raise ModelError(what, where=str(path), hint=ANY_SOURCE)
    if path.suffix.lower() in SUFFIXES:
        what, cure = SUFFIXES[path.suffix.lower()]
        raise ModelError(f"{what}, which cannot be used here", where=str(path), hint=cure)
    raise ModelError("no known kind of model file, or damaged at its start", where=str(path), hint=ANY_SOURCE)


def _head(path: Path) -> tuple[bytes, int]:
    where = str(path)
    if path.is_dir():
        inside = sorted(path.glob("**/*.keras"))
        hint = f"did you mean {inside[-1]}?" if inside else "name a file in it"
        saved_model = (path / "saved_model.pb").exists()
        what = "a TensorFlow SavedModel" if saved_model else "a folder, not a model file"
        raise ModelError(what, where=where, hint="save the model as .keras" if saved_model else hint)
    try:
        with open(path, "rb") as file:
            return file.read(HEAD), os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        raise ModelError("no such model file", where=where) from None
    except OSError as error:
        raise ModelError(f"cannot be read: {error.strerror or error}", where=where) from error


def _zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise ModelError(
            "damaged: the end of the file is missing; was its copying or downloading cut short?", where=str(path)
        ) from error
    if any(name.rpartition("/")[2] in ("data.pkl", "constants.pkl") for name in names):
        raise ModelError(PICKLE, where=str(path), hint=TO_SAFETENSORS)
    if "config.json" in names or "model.weights.h5" in names:
        return KERAS
    raise ModelError("a zip archive without a network: not saved by ssd", where=str(path), hint=ANY_SOURCE)


def _is_safetensors(head: bytes, size: int) -> bool:
    """Eight bytes of length, then that much JSON."""
    return len(head) > 8 and head[8:9] == b"{" and 2 <= struct.unpack("<Q", head[:8])[0] <= size - 8


def _is_darknet(head: bytes, size: int) -> bool:
    """A header, then float32 to the end."""
    header = header_length(head)
    return header is not None and (size - header) % 4 == 0


def _is_text(head: bytes) -> bool:
    """UTF-8 without control characters, cut anywhere."""
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:
            return False
        text = head[: error.start].decode("utf-8")
    return all(character >= " " or character in "\t\r\n\f" for character in text)

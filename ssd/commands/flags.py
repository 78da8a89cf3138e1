"""Flags that several verbs share, and what is wrong with their values."""

import argparse
import os
from pathlib import Path

from ssd.errors import InputError

PROVIDERS = ("cpu", "cuda", "tensorrt")  # of ONNX Runtime, as in ssd.deploy.onnx_session


def add_key(parser: argparse.ArgumentParser) -> None:
    """`-k`, which TAO's users give with every command; it opens what `ssd` encrypted."""
    parser.add_argument("-k", "--key", metavar="KEY", help="of an encrypted model (.tlt, .etlt)")


def model_fault(path: str, flag: str = "-m/--model_path") -> InputError | None:
    """Looked up before TensorFlow is loaded, which takes seconds."""
    return None if Path(path).expanduser().exists() else InputError(f"{flag} {path}: no such model file")


def folder_fault(flag: str, folder: Path) -> InputError | None:
    """What keeps files from being written below `folder`, which need not be there yet."""
    there = next(each for each in (folder, *folder.parents) if each.exists())
    if not there.is_dir():
        return InputError(f"{flag}: {there} is a file, a folder is needed")
    if not os.access(there, os.W_OK | os.X_OK):
        return InputError(f"{flag}: cannot write in {there}: Permission denied")
    return None


def batch_size_fault(batch_size: int | None) -> InputError | None:
    """None stands for the spec's own."""
    if batch_size is None or batch_size >= 1:
        return None
    return InputError(f"-b/--batch_size is {batch_size}; at least 1 is needed")

"""Flags that several verbs share, and what is wrong with their values."""

from pathlib import Path

from ssd.errors import InputError


def key_fault(key: str | None) -> InputError | None:
    """TAO's `-k` opens encrypted models; there are none here yet."""
    if key is None:
        return None
    return InputError(
        "-k/--key: encrypted models (.tlt, .etlt) cannot be read yet", hint="leave -k out: .keras models have no key"
    )


def model_fault(path: str) -> InputError | None:
    """Looked up before TensorFlow is loaded, which takes seconds."""
    return None if Path(path).expanduser().exists() else InputError(f"-m/--model_path {path}: no such model file")


def batch_size_fault(batch_size: int | None) -> InputError | None:
    """None stands for the spec's own."""
    if batch_size is None or batch_size >= 1:
        return None
    return InputError(f"-b/--batch_size is {batch_size}; at least 1 is needed")

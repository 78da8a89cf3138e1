"""Flags that several verbs share, and what is wrong with their values."""

from ssd.errors import InputError


def key_fault(key: str | None) -> InputError | None:
    """TAO's `-k` opens encrypted models; there are none here yet."""
    if key is None:
        return None
    return InputError(
        "-k/--key: encrypted models (.tlt, .etlt) cannot be read yet", hint="leave -k out: .keras models have no key"
    )


def batch_size_fault(batch_size: int | None) -> InputError | None:
    """None stands for the spec's own."""
    if batch_size is None or batch_size >= 1:
        return None
    return InputError(f"-b/--batch_size is {batch_size}; at least 1 is needed")

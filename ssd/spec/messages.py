"""Small things that all code on spec messages needs."""

import struct
from collections.abc import Iterator

from google.protobuf.message import Message


def walk(message: Message, path: str = "") -> Iterator[tuple[Message, str]]:
    """The message and every block present below it, with field paths: `dataset_config.data_sources[0]`."""
    yield message, path
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        below = join(path, field.name)
        if field.is_repeated:
            for index, item in enumerate(value):
                yield from walk(item, f"{below}[{index}]")
        else:
            yield from walk(value, below)


def join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def given(message: Message, name: str):
    """The value of an optional field, as decimal() for floats; None where it is absent."""
    if not message.HasField(name):
        return None
    value = getattr(message, name)
    return decimal(value) if isinstance(value, float) else value


def decimal(value: float) -> float:
    """The shortest decimal that is this 32-bit float: 0.15, where the field holds 0.15000000596."""
    stored = struct.pack("f", value)
    for digits in range(6, 10):
        short = float(f"{value:.{digits}g}")
        try:
            if struct.pack("f", short) == stored:
                return short
        except OverflowError:  # rounded up beyond the largest float
            continue
    return value

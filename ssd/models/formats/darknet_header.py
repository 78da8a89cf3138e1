"""The header of Darknet's `.weights`, as Darknet's own reader (`load_weights_upto` in its parser.c) takes it."""

import struct


def header_length(start: bytes) -> int | None:
    """Bytes of the header that a file starts with; None when it is no Darknet header.

    major, minor, revision as int32, then the count of images seen: int64 since version 0.2, int32 before. Nothing else
    marks the format, so that only versions near those in use (0.1.0, 0.2.0, 0.2.5) count as some.
    """
    if len(start) < 12:
        return None
    major, minor, revision = struct.unpack("<3i", start[:12])
    if not (0 <= major <= 1 and 0 <= minor <= 9 and 0 <= revision <= 99):
        return None
    length = 20 if 10 * major + minor >= 2 else 16
    return length if len(start) >= length else None

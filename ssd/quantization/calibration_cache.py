"""TensorRT's calibration cache: a text of tensor names and scales, for TensorRT up to 10 and DeepStream.

    TRT-8503-EntropyCalibration2
    Input: 3f9a2b4c

The number behind the colon is the scale, amax / 127, as the bits of a 32-bit float in hexadecimal.
"""

import math
import re
import struct
from pathlib import Path

from ssd.errors import InputError
from ssd.files import write_text

CODES = 127.0
HEADER = "TRT-8503-EntropyCalibration2"  # the version is not compared by those who read it
LINE = re.compile(r"^(?P<name>.+): (?P<bits>[0-9a-fA-F]{1,8})$")


def cache_text(amax: dict[str, float]) -> str:
    """The cache of a table of ranges."""
    lines = [f"{name}: {struct.pack('>f', value / CODES).hex()}" for name, value in amax.items()]
    return "\n".join([HEADER, *lines]) + "\n"


def write_cache(path: str | Path, amax: dict[str, float]) -> None:
    """Writes the cache, whole or not at all."""
    write_text(path, cache_text(amax))


def read_cache(path: str | Path) -> dict[str, float]:
    """The table of ranges in a cache.

    Raises:
        InputError: no cache, or a line that is none of it.
    """
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise InputError("no such calibration cache", where=str(path)) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("cannot be read: a calibration cache is a text", where=str(path)) from error
    if not lines or not lines[0].startswith("TRT-"):
        raise InputError("no calibration cache: its first line does not begin with TRT-", where=f"{path}:1")
    amax = {}
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        found = LINE.match(line.strip())
        value = struct.unpack(">f", bytes.fromhex(found["bits"].zfill(8)))[0] if found else math.nan
        if not math.isfinite(value) or value < 0:
            raise InputError("no line of a calibration cache: 'tensor: 3f9a2b4c' is expected", where=f"{path}:{number}")
        amax[found["name"]] = value * CODES
    if not amax:
        raise InputError("a calibration cache without tensors", where=str(path))
    return amax

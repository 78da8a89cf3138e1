"""Is this an image that can be used, and how large? From the bytes, without decoding pixels.

A truncated file is told by its missing end: JPEG's end marker, PNG's last chunk, BMP's promised bytes.
"""

import io
import struct
import warnings
from dataclasses import dataclass

from PIL import Image

# Pillow's names of what tf.image decodes. MPO is a JPEG with more pictures behind it.
FORMATS = ("JPEG", "MPO", "PNG", "BMP", "GIF")
ORIENTATION = 0x0112
# EXIF orientations that lie on their side.
SIDEWAYS = (5, 6, 7, 8)
_PNG_CHUNK = struct.Struct(">I4s")


class BadImage(Exception):
    """Why the bytes are no usable image: a short phrase."""


@dataclass(frozen=True)
class Header:
    """`height` and `width` are those of the upright image, px."""

    format: str
    height: int
    width: int
    orientation: int  # EXIF, 1..8; 1 is upright


def read_header(data: bytes) -> Header:
    """Raises BadImage: empty, no image, of a format that is not read, truncated."""
    if not data:
        raise BadImage("the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data)) as image:
                kind, (width, height) = image.format, image.size
                if kind not in FORMATS:
                    raise BadImage(f"{kind} images are not read (JPEG, PNG, BMP, GIF are)")
                orientation = _orientation(image)
    except BadImage:
        raise
    except Exception as error:  # Pillow's readers raise all kinds on damaged bytes
        raise BadImage("not a readable image") from error
    if not _has_end(kind, data, width, height):
        raise BadImage("the image file is cut off")
    if orientation in SIDEWAYS:
        height, width = width, height
    return Header(kind, height, width, orientation)


def _orientation(image: Image.Image) -> int:
    # Only JPEG: nothing else carries it in practice, and the decoder looks there only.
    if image.format not in ("JPEG", "MPO") or "exif" not in image.info:
        return 1
    try:
        orientation = image.getexif().get(ORIENTATION, 1)
    except Exception:  # damaged EXIF is no reason to refuse the picture
        return 1
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def _has_end(kind: str, data: bytes, width: int, height: int) -> bool:
    if kind in ("JPEG", "MPO"):
        return _jpeg_has_end(data)
    if kind == "PNG":
        return _png_has_end(data)
    if kind == "BMP":
        return _bmp_has_end(data, width, height)
    return b"\x3b" in data[-16:]  # GIF's trailer, perhaps followed by padding


def _jpeg_has_end(data: bytes) -> bool:
    """An end marker after the last segment before the pixels; the EXIF thumbnail before it has one of its own."""
    position = 2
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            return False
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker == 0xDA:  # start of scan: in its data 0xFF is always followed by 0 or a restart marker
            return data.rfind(b"\xff\xd9", position) >= 0
        position += (
            2 if 0xD0 <= marker <= 0xD8 or marker == 0x01 else 2 + int.from_bytes(data[position + 2 : position + 4])
        )
    return False


def _png_has_end(data: bytes) -> bool:
    position = 8
    while position + 12 <= len(data):
        length, kind = _PNG_CHUNK.unpack_from(data, position)
        position += 12 + length
        if kind == b"IEND":
            return position <= len(data)
    return False


def _bmp_has_end(data: bytes, width: int, height: int) -> bool:
    offset, header = struct.unpack_from("<II", data, 10)
    if header < 40 or len(data) < 34:
        return True  # the OS/2 form
    bits, compression, size = struct.unpack_from("<HII", data, 28)
    expected = (width * bits + 31) // 32 * 4 * height if compression in (0, 3) else size
    return len(data) >= offset + expected

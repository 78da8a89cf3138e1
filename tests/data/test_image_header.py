"""Image sizes and truncation from bytes."""

import io

import numpy as np
import pytest
from PIL import Image

from ssd.data.image_header import ORIENTATION, BadImage, read_header


def picture(kind, mode="RGB", size=(40, 30), **options):
    pixels = np.random.default_rng(1).integers(0, 255, (size[1], size[0], 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def exif(orientation):
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    return tags.tobytes()


@pytest.mark.parametrize(
    "data",
    [
        picture("JPEG"),
        picture("JPEG", "L"),
        picture("JPEG", "CMYK"),
        picture("JPEG", progressive=True),
        picture("JPEG") + b"\0" * 64,  # cameras pad their files
        picture("PNG"),
        picture("PNG", "P"),
        picture("PNG", "RGBA"),
        picture("PNG", "1"),
        picture("PNG", "I;16"),
        picture("BMP"),
        picture("BMP", "P"),
        picture("BMP", "1"),
        picture("GIF", "P"),
    ],
)
def test_whole_images_have_a_size_and_cut_ones_do_not(data):
    header = read_header(data)
    assert (header.height, header.width, header.orientation) == (30, 40, 1)
    body = data.rstrip(b"\0") if header.format == "JPEG" else data
    for length in (len(body) - 2, len(body) // 2, 20, 1, 0):
        with pytest.raises(BadImage):
            read_header(body[:length])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_is_that_of_the_upright_image(orientation):
    header = read_header(picture("JPEG", exif=exif(orientation)))
    upright = (40, 30) if orientation >= 5 else (30, 40)
    assert (header.height, header.width, header.orientation) == (*upright, orientation)


def test_the_end_of_a_thumbnail_is_not_the_end_of_the_picture():
    data = picture("JPEG", exif=exif(1) + picture("JPEG"))
    assert read_header(data).width == 40
    with pytest.raises(BadImage, match="cut off"):
        read_header(data[:-40])


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "empty"),
        (b"car 0 0 0", "not a readable image"),
        (picture("TIFF"), "TIFF images are not read"),
        (picture("PNG")[:8] + b"\xff" * 100, "not a readable image"),
    ],
)
def test_what_is_no_image_says_why(data, said):
    with pytest.raises(BadImage, match=said):
        read_header(data)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_is_upright(orientation):
    assert read_header(picture("JPEG", exif=exif(orientation))).orientation == 1

"""TensorRT's calibration cache: scales to the bit, there and back, and damage named by its line."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssd.errors import InputError
from ssd.quantization.calibration_cache import cache_text, read_cache, write_cache

HEADER = "TRT-8503-EntropyCalibration2\n"


def test_scales_are_the_bits_of_a_float_in_hexadecimal():
    # 6 / 127 = 0.0472441; the original toolkit's vector.
    assert cache_text({"Input": 6.0, "relu/1:0": 127.0}) == HEADER + "Input: 3d418306\nrelu/1:0: 3f800000\n"


def test_a_cache_of_tensorrt_is_read(tmp_path):
    path = tmp_path / "cal.bin"
    path.write_text("TRT-7103-MinMaxCalibration\nInput: 3D418306\r\n\nconv 1: x: 3f800000\n(Unnamed Layer* 3): 0\n")
    found = read_cache(path)
    assert found == {"Input": pytest.approx(6.0, rel=1e-6), "conv 1: x": 127.0, "(Unnamed Layer* 3)": 0.0}
    assert found["Input"] != 127.0


names = st.text(st.characters(codec="ascii", min_codepoint=33), min_size=1, max_size=12)
ranges = st.floats(0, 1e30, allow_subnormal=False) | st.sampled_from([0.0, 1e-30, 127.0])


@given(amax=st.dictionaries(names, ranges, min_size=1, max_size=8))
def test_what_is_written_is_read_in_its_order_to_the_precision_of_a_scale(amax, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "cache.bin"
    write_cache(path, amax)
    found = read_cache(path)
    assert list(found) == list(amax)
    for name, value in amax.items():
        scale = struct.unpack(">f", struct.pack(">f", value / 127))[0]
        assert found[name] == scale * 127
    # From then on nothing changes any more.
    assert cache_text(found) == path.read_text()


def test_writing_replaces_a_cache_whole(tmp_path):
    path = tmp_path / "cache.bin"
    write_cache(path, {"a": 1.0, "b": 2.0})
    write_cache(path, {"c": 3.0})
    assert list(read_cache(path)) == ["c"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["cache.bin"]


@pytest.mark.parametrize(
    "line",
    ["Input 3d418306", "Input:3d418306", "Input: 3d41830g", "Input: 3d4183061", "Input: ", ": 3d418306", "Input: 0.5"],
)
def test_a_damaged_line_is_refused_by_its_number(line, tmp_path):
    path = tmp_path / "cache.bin"
    path.write_text(f"{HEADER}a: 3f800000\n\n{line}\nb: 3f800000\n")
    with pytest.raises(InputError, match="no line of a calibration cache") as caught:
        read_cache(path)
    assert caught.value.where == f"{path}:4"


@pytest.mark.parametrize(
    ("bits", "what"),
    [("7f800000", "infinity"), ("7fc00000", "no number"), ("bd418306", "negative"), ("ff800000", "both")],
)
def test_scales_that_are_no_scales_are_refused(bits, what, tmp_path):
    path = tmp_path / "cache.bin"
    path.write_text(f"{HEADER}a: {bits}\n")
    with pytest.raises(InputError) as caught:
        read_cache(path)
    assert caught.value.where == f"{path}:2"


@pytest.mark.parametrize("text", ["", "\n", "Input: 3d418306\n", "trt-8503\na: 3f800000\n"])
def test_a_file_without_the_header_is_none(text, tmp_path):
    path = tmp_path / "cache.bin"
    path.write_text(text)
    with pytest.raises(InputError, match="no calibration cache") as caught:
        read_cache(path)
    assert caught.value.where == f"{path}:1"


def test_a_cache_without_tensors_a_binary_and_no_file_are_refused(tmp_path):
    path = tmp_path / "cache.bin"
    path.write_text(HEADER + "\n")
    with pytest.raises(InputError, match="without tensors"):
        read_cache(path)
    path.write_bytes(b"TRT-8503\n\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read"):
        read_cache(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_cache(tmp_path)
    with pytest.raises(InputError, match="no such calibration cache") as caught:
        read_cache(tmp_path / "missing")
    assert caught.value.where == str(tmp_path / "missing")

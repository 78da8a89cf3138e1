"""Encrypted models: the format against one written by hand, every kind of damage, plain files that leave no trace."""

import hashlib
import os
import stat
import struct
import sys
import tempfile
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from ssd import encryption
from ssd.encryption import HEADER, MAGIC, decrypt, encrypt, encrypt_file, is_encrypted, plain_file
from ssd.errors import InputError, ModelError, Problems

FULL_COST = encryption.SCRYPT
DATA = b"weights, and more weights"
KEY = "tlt_encode"
HDF5 = b"\x89HDF\r\n\x1a\n" + DATA
ZIP = b"PK\x03\x04" + DATA
ONNX = b"\x08\x08\x12\x03ssd" + DATA
NOISE = hashlib.sha512(b"noise").digest()
# Written by the first version, at its full cost, and to be read by all that follow.
STORED = bytes.fromhex(
    "89535344454e430a 010f0801 000102030405060708090a0b0c0d0e0f 000102030405060708090a0b 0700000000000000"
    "a0ec3f0e1cd4a4 32a3c79989ec1696e5a22f3da32ffdea"
)
STORED_KEY = "tlt_encode ü"
WRONG = "the key .* is not the one it was encrypted with, or the file was changed"
CUT = "the end of the file is missing"
ABSURD = "its header says .*, which ssd does not write"


@pytest.fixture(autouse=True, scope="module")
def cheap():
    """scrypt is slow by design; its cost stands in each file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encryption, "SCRYPT", (4, 1, 1))
        yield


@pytest.fixture
def temporary_files(tmp_path, monkeypatch):
    """The folder where temporary files are made."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def warnings(monkeypatch):
    lines = []
    monkeypatch.setattr("ssd.console.warn", lines.append)
    return lines


def mode(path) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


def by_hand(data, key, version=1, cost=(4, 1, 1)):
    """The format, from the standard library's scrypt."""
    salt, nonce = b"s" * 16, b"n" * 12
    log_n, r, p = cost
    secret = hashlib.scrypt(key.encode(), salt=salt, n=2**log_n, r=r, p=p, dklen=32, maxmem=2**30)
    header = b"\x89SSDENC\n" + bytes([version, log_n, r, p]) + salt + nonce + struct.pack("<Q", len(data))
    return header + AESGCM(secret).encrypt(nonce, data, header)


# --- the format ---------------------------------------------------------------------------------


@settings(max_examples=25)
@given(data=st.binary(max_size=200), key=st.text(min_size=1, max_size=30))
def test_what_was_encrypted_comes_back(data, key):
    assert decrypt(encrypt(data, key), key, "m") == data


@settings(max_examples=25)
@given(data=st.binary(max_size=200), key=st.text(min_size=1, max_size=30))
def test_a_file_written_by_hand_is_read(data, key):
    assert decrypt(by_hand(data, key), key, "m") == data


def test_a_stored_file_is_read_and_written_to_the_bit(monkeypatch):
    assert decrypt(STORED, STORED_KEY, "m") == b"a model"
    monkeypatch.setattr(encryption, "SCRYPT", FULL_COST)
    monkeypatch.setattr(os, "urandom", lambda count: bytes(range(count)))
    assert encrypt(b"a model", STORED_KEY) == STORED


def test_new_files_cost_an_attacker_32_mebibytes_a_guess():
    assert FULL_COST == (15, 8, 1)


def test_the_same_twice_is_encrypted_in_two_ways():
    one, other = encrypt(DATA, KEY), encrypt(DATA, KEY)
    assert one[:12] == other[:12]
    assert one[12:28] != other[12:28] and one[28:40] != other[28:40] and one[48:] != other[48:]


def test_the_content_does_not_show():
    assert DATA[:8] not in encrypt(DATA, KEY)


def test_a_key_that_is_no_utf_8_counts_as_it_was_typed():
    key = b"caf\xe9".decode("utf-8", "surrogateescape")  # as Python makes sys.argv
    assert decrypt(encrypt(DATA, key), key, "m") == DATA


@pytest.mark.parametrize("use", [lambda: encrypt(DATA, ""), lambda: decrypt(by_hand(DATA, KEY), "", "m")])
def test_an_empty_key_is_refused(use):
    with pytest.raises(InputError, match="-k/--key is empty"):
        use()


# --- damage -------------------------------------------------------------------------------------


def refused(data, match, key=KEY):
    with pytest.raises(ModelError, match=match) as caught:
        decrypt(data, key, "net.tlt")
    assert caught.value.where == "net.tlt"
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("key", [KEY + " ", KEY.upper(), "another", "\0"])
def test_a_wrong_key(key):
    refused(encrypt(DATA, KEY), WRONG, key=key)


@pytest.mark.parametrize("content", [b"", DATA])
def test_a_file_cut_anywhere(content):
    whole = encrypt(content, KEY)
    for length in range(len(whole)):
        refused(whole[:length], CUT)


@pytest.mark.parametrize(
    ("at", "value", "match"),
    [
        (0, b"\x88", "not encrypted by ssd"),
        (7, b"\r", "not encrypted by ssd"),
        (8, b"\x00", ABSURD),
        (8, b"\x02", "by a newer ssd, in format 2; update ssd"),
        (8, b"\xff", "by a newer ssd, in format 255"),
        (9, b"\x00", ABSURD),
        (9, b"\x05", WRONG),
        (9, b"\xff", r"N=2\*\*255"),
        (9, b"\x10", ABSURD),  # N beyond what scrypt is defined for
        (10, b"\x00", ABSURD),
        (10, b"\x02", WRONG),
        (11, b"\x00", ABSURD),
        (11, b"\x02", WRONG),
        (11, b"\xff", ABSURD),
        (12, b"a new salt......", WRONG),
        (28, b"a new nonce.", WRONG),
        (40, struct.pack("<Q", len(DATA) - 1), WRONG),
        (40, struct.pack("<Q", len(DATA) + 1), CUT),
        (40, b"\xff" * 8, CUT),
        (48, b"?", WRONG),
    ],
)
def test_each_field_changed(at, value, match):
    whole = encrypt(DATA, KEY)
    refused(whole[:at] + value + whole[at + len(value) :], match)


def test_any_changed_bit():
    whole = encrypt(DATA, KEY)
    for at in range(len(whole)):
        for bit in range(8):
            changed = bytearray(whole)
            changed[at] ^= 1 << bit
            refused(bytes(changed), None)


def test_bytes_behind_the_end():
    refused(encrypt(DATA, KEY) + b"\0", WRONG)


def test_a_newer_header_may_be_of_any_length():
    refused(MAGIC + b"\x02", "newer")


@pytest.mark.parametrize("cost", [(63, 8, 1), (19, 8, 1), (15, 255, 1), (15, 8, 5), (15, 8, 255), (30, 2, 1)])
def test_a_header_cannot_ask_for_much(cost, monkeypatch):
    monkeypatch.setattr(encryption, "_derive", lambda *_: pytest.fail("obeyed"))
    refused(HEADER.pack(MAGIC, 1, *cost, b"s" * 16, b"n" * 12, 0) + b"t" * 16, ABSURD)


def test_a_header_may_ask_for_more_than_today():
    assert decrypt(by_hand(DATA, KEY, cost=(12, 8, 2)), KEY, "m") == DATA


@pytest.mark.parametrize("content", [b"\x07\x00\x00\x00input_1" + NOISE, NOISE, HDF5, ZIP])
def test_a_foreign_file_is_named_and_the_cure(content):
    refused(content, r"NVIDIA's own .tlt and .etlt are a closed format that cannot be read")
    with pytest.raises(ModelError) as caught:
        decrypt(content, KEY, "m")
    assert "FILE.hdf5" in caught.value.hint


# --- files --------------------------------------------------------------------------------------


def test_a_file_is_known_by_its_beginning(tmp_path):
    path = tmp_path / "a.keras"
    assert not is_encrypted(path)
    assert not is_encrypted(tmp_path)
    path.write_bytes(b"")
    assert not is_encrypted(path)
    path.write_bytes(ZIP)
    assert not is_encrypted(str(path))
    path.write_bytes(encrypt(ZIP, KEY))
    assert is_encrypted(path) and is_encrypted(str(path))


@pytest.mark.parametrize(("content", "suffix"), [(HDF5, ".hdf5"), (ZIP, ".keras"), (ONNX, ".onnx"), (b"", ".onnx")])
def test_the_suffix_says_what_is_inside(tmp_path, temporary_files, content, suffix):
    path = tmp_path / "net.tlt"
    path.write_bytes(encrypt(content, KEY))
    with plain_file(path, KEY) as plain:
        assert plain.name == f"net{suffix}"
        assert plain.read_bytes() == content
        assert temporary_files in plain.parents
    assert not os.listdir(temporary_files)


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_only_the_owner_reads_the_plain_file(tmp_path, temporary_files, umask):
    path = tmp_path / "net.etlt"
    path.write_bytes(encrypt(ONNX, KEY))
    earlier = os.umask(umask)
    try:
        with plain_file(path, KEY) as plain:
            assert mode(plain) == 0o600
            assert mode(plain.parent) == 0o700
    finally:
        os.umask(earlier)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_the_plain_file_goes_when_the_block_fails(tmp_path, temporary_files, error):
    path = tmp_path / "net.tlt"
    path.write_bytes(encrypt(HDF5, KEY))
    with pytest.raises(error), plain_file(path, KEY) as plain:
        assert plain.exists()
        raise error
    assert not os.listdir(temporary_files)
    assert path.exists()


def test_errors_name_the_encrypted_file(tmp_path):
    path = tmp_path / "net.etlt"
    path.write_bytes(encrypt(ONNX, KEY))
    with pytest.raises(ModelError) as caught, plain_file(path, KEY) as plain:
        raise ModelError(f"{plain} is odd", where=f"{plain}:metadata", hint="look")
    assert str(caught.value) == f"{path}:metadata: {path} is odd\n    look"
    with pytest.raises(Problems) as caught, plain_file(path, KEY) as plain:
        raise Problems([InputError("one", where=str(plain)), InputError("other")])
    assert str(caught.value) == f"{path}: one\nother"


def test_the_plain_file_may_be_gone_already(tmp_path, temporary_files):
    path = tmp_path / "net.tlt"
    path.write_bytes(encrypt(HDF5, KEY))
    with plain_file(path, KEY) as plain:
        plain.unlink()
    assert not os.listdir(temporary_files)


def test_nothing_is_written_when_the_key_is_wrong(tmp_path, temporary_files):
    path = tmp_path / "net.tlt"
    path.write_bytes(encrypt(HDF5, KEY))
    with pytest.raises(ModelError, match=WRONG) as caught, plain_file(path, "another"):
        pytest.fail("opened")
    assert caught.value.where == str(path)
    assert not os.listdir(temporary_files)


def test_an_encrypted_file_needs_a_key(tmp_path):
    path = tmp_path / "net.tlt"
    path.write_bytes(encrypt(HDF5, KEY))
    with pytest.raises(ModelError, match="encrypted") as caught, plain_file(path, None):
        pytest.fail("opened")
    assert (caught.value.where, caught.value.hint) == (str(path), "-k KEY")
    with pytest.raises(InputError, match="empty"), plain_file(path, ""):
        pytest.fail("opened")


@pytest.mark.parametrize("name", ["net.keras", "net.tlt"])  # a plain model under TAO's suffix is plain
def test_a_plain_file_is_used_as_it_is(tmp_path, temporary_files, warnings, name):
    path = tmp_path / name
    path.write_bytes(ZIP)
    with plain_file(str(path), None) as plain:
        assert plain == path
    assert not warnings
    with plain_file(path, KEY) as plain:
        assert plain == path
        assert not os.listdir(temporary_files)
    assert warnings == [f"{path} is not encrypted: -k/--key is not needed (outputs named .tlt or .etlt are encrypted)"]
    with plain_file(path, KEY, encrypts=True):
        assert len(warnings) == 1
    assert path.read_bytes() == ZIP


def test_a_missing_file_is_left_to_its_reader(tmp_path, warnings):
    with plain_file(tmp_path / "none.keras", KEY) as plain:
        assert plain == tmp_path / "none.keras"
    assert not warnings


@pytest.mark.parametrize("key", [None, KEY])
@pytest.mark.parametrize("name", ["net.tlt", "NET.ETLT"])
def test_nvidias_files_are_not_called_plain(tmp_path, warnings, name, key):
    path = tmp_path / name
    path.write_bytes(b"\x00\x00\x00\x00" + NOISE)
    with pytest.raises(ModelError, match="NVIDIA's own") as caught, plain_file(path, key):
        pytest.fail("opened")
    assert caught.value.where == str(path)
    assert not warnings


def test_a_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.onnx").write_bytes(ONNX)
    encrypt_file("~/a.onnx", "~/b.etlt", KEY)
    assert is_encrypted("~/b.etlt")
    with plain_file("~/b.etlt", KEY) as plain:
        assert plain.read_bytes() == ONNX
    with plain_file("~/a.onnx", None) as plain:
        assert plain == Path(tmp_path / "a.onnx")


def test_a_file_is_encrypted_whole_or_not_at_all(tmp_path, monkeypatch):
    source, target = tmp_path / "a.onnx", tmp_path / "new" / "a.etlt"
    source.write_bytes(ONNX)
    encrypt_file(str(source), target, KEY)
    assert decrypt(target.read_bytes(), KEY, "m") == ONNX
    assert source.read_bytes() == ONNX
    earlier = target.read_bytes()
    monkeypatch.setattr(encryption, "encrypt", lambda *_: "no bytes: the writing fails")
    with pytest.raises(TypeError):
        encrypt_file(source, target, KEY)
    assert target.read_bytes() == earlier
    assert os.listdir(target.parent) == ["a.etlt"]


def test_a_file_may_be_encrypted_in_place(tmp_path):
    path = tmp_path / "a.onnx"
    path.write_bytes(ONNX)
    encrypt_file(path, path, KEY)
    assert decrypt(path.read_bytes(), KEY, "m") == ONNX


def test_an_empty_key_writes_nothing(tmp_path):
    (tmp_path / "a.onnx").write_bytes(ONNX)
    with pytest.raises(InputError, match="empty"):
        encrypt_file(tmp_path / "a.onnx", tmp_path / "a.etlt", "")
    assert os.listdir(tmp_path) == ["a.onnx"]


def test_the_cipher_is_loaded_when_it_is_used():
    code = "import sys, ssd.encryption; sys.exit('cryptography' in sys.modules)"
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", code]) == 0

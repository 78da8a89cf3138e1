"""Model files under a key (`-k`): AES-256-GCM, its key made from the user's by scrypt.

A file is a header, the ciphertext and a tag of 16 bytes. The tag covers the header too, so that no byte of a file can
change unnoticed. This is a format of its own; that of NVIDIA's .tlt and .etlt files is not published.
"""

import contextlib
import os
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ssd import console
from ssd.errors import InputError, ModelError, SsdError
from ssd.files import whole_file

# The first byte is no text and the last is a line end: a copy that "converts" the file as text shows at once.
MAGIC = b"\x89SSDENC\n"
VERSION = 1  # the byte after the magic, in every version of the format
# Little-endian: magic, version, scrypt's log2(N), r and p, salt, nonce, bytes of content. With the last of these a cut
# file is told from a wrong key.
HEADER = struct.Struct("<8s4B16s12sQ")
TAG = 16
SCRYPT = (15, 8, 1)  # log2(N), r, p of new files: 32 MiB and a tenth of a second for every guess at a key
# What a header may ask for, since it is obeyed before anything can be verified: 256 MiB, a few seconds.
MOST_MEMORY = 2**28
MOST_PASSES = 4

NVIDIA = (".tlt", ".etlt")
CUT_SHORT = "damaged: the end of the file is missing; was its copying or downloading cut short?"


def encrypt(data: bytes, key: str) -> bytes:
    """An encrypted file's content; another one at each call, since salt and nonce are drawn anew.

    Args:
        data: the content of a model file, of any kind.
        key: what `-k` says.

    Raises:
        InputError: the key is empty.
    """
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    salt, nonce = os.urandom(16), os.urandom(12)
    header = HEADER.pack(MAGIC, VERSION, *SCRYPT, salt, nonce, len(data))
    return header + AESGCM(_derive(key, salt, *SCRYPT)).encrypt(nonce, data, header)


def decrypt(data: bytes, key: str, where: str) -> bytes:
    """What `encrypt` was given.

    Args:
        data: the content of an encrypted file.
        key: the key that it was encrypted with.
        where: the file's name, for errors.

    Raises:
        InputError: the key is empty.
        ModelError: another format, a newer version, a cut or changed file, another key.
    """
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    if not data.startswith(MAGIC[: len(data)]):
        raise _foreign(where)
    if len(data) > len(MAGIC) and data[len(MAGIC)] > VERSION:
        raise ModelError(f"encrypted by a newer ssd, in format {data[len(MAGIC)]}; update ssd to read it", where=where)
    if len(data) < HEADER.size:
        raise ModelError(CUT_SHORT, where=where)
    _, version, log_n, r, p, salt, nonce, length = HEADER.unpack_from(data)
    # scrypt itself is defined for N < 2**(16 r) only.
    affordable = 0 < log_n < 16 * r and 128 * r * 2**log_n <= MOST_MEMORY and 0 < p <= MOST_PASSES
    if version < 1 or not affordable:
        asked = f"format {version} with scrypt's N=2**{log_n}, r={r}, p={p}"
        raise ModelError(f"damaged: its header says {asked}, which ssd does not write", where=where)
    if len(data) < HEADER.size + length + TAG:
        raise ModelError(CUT_SHORT, where=where)
    header, ciphertext = data[: HEADER.size], memoryview(data)[HEADER.size :]
    try:
        return AESGCM(_derive(key, salt, log_n, r, p)).decrypt(nonce, ciphertext, header)
    except InvalidTag:
        both = "the key (-k) is not the one it was encrypted with, or the file was changed since"  # GCM cannot tell
        raise ModelError(both, where=where) from None


def is_encrypted(path: str | os.PathLike) -> bool:
    """Whether the file begins as `encrypt` lets it begin; False where there is none or it cannot be read."""
    return _head(Path(path).expanduser()).startswith(MAGIC)


@contextlib.contextmanager
def plain_file(path: str | os.PathLike, key: str | None, *, encrypts: bool = False) -> Iterator[Path]:
    """The file itself, or what is encrypted in it as a file that only its owner can read and that goes with the block.

    Args:
        path: a model file; its own reader says what is wrong with one that is missing.
        key: what `-k` says, None without it.
        encrypts: whether the key is for an output, and so is needed where the file is plain.

    Yields:
        `path`, or a temporary file of its name with the suffix of what is inside: .keras, .hdf5, else .onnx. Errors
        inside the block that name it are made to name `path`.

    Raises:
        InputError: the key is empty and one is needed.
        ModelError: the file is encrypted, and there is no key, not the right one, or it is NVIDIA's encryption.
    """
    path = Path(path).expanduser()
    head = _head(path)
    if not head.startswith(MAGIC):
        # A plain file under such a name is as good as any other.
        if head and path.suffix.lower() in NVIDIA and _suffix(head) == ".onnx":
            raise _foreign(str(path))
        if head and key is not None and not encrypts:
            console.warn(f"{path} is not encrypted: -k/--key is not needed (outputs named .tlt or .etlt are encrypted)")
        yield path
        return
    if key is None:
        raise ModelError("encrypted, and no key was given", where=str(path), hint="-k KEY")
    data = decrypt(path.read_bytes(), key, str(path))
    with tempfile.TemporaryDirectory(prefix="ssd-") as folder:  # private: mode 0700
        plain = Path(folder) / f"{path.stem}{_suffix(data)}"
        plain.touch(mode=0o600, exist_ok=False)
        plain.write_bytes(data)
        del data  # the block may last for hours
        try:
            yield plain
        except SsdError as error:
            for each in getattr(error, "problems", [error]):
                each.where = each.where and each.where.replace(str(plain), str(path))
                each.message = each.message.replace(str(plain), str(path))
            raise


def encrypt_file(source: str | os.PathLike, target: str | os.PathLike, key: str) -> None:
    """Writes `source`, encrypted, to `target`: whole or not at all.

    Args:
        source: a plain file.
        target: the encrypted one; may be `source` itself.
        key: what `-k` says.

    Raises:
        InputError: the key is empty.
        OSError: `source` cannot be read or `target` not be written.
    """
    data = encrypt(Path(source).expanduser().read_bytes(), key)
    with whole_file(Path(target).expanduser()) as temporary:
        temporary.write_bytes(data)


def _derive(key: str, salt: bytes, log_n: int, r: int, p: int) -> bytes:
    from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

    if not key:
        raise InputError("-k/--key is empty")
    # An argument that is no UTF-8 reaches Python with its odd bytes escaped; they count as they were typed.
    return Scrypt(salt=salt, length=32, n=2**log_n, r=r, p=p).derive(key.encode("utf-8", "surrogateescape"))


def _head(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(len(MAGIC))
    except OSError:
        return b""


def _suffix(data: bytes) -> str:
    """Readers go by the suffix; it follows from the first bytes."""
    if data.startswith(b"PK"):
        return ".keras"
    return ".hdf5" if data.startswith(b"\x89HDF\r\n\x1a\n") else ".onnx"


def _foreign(where: str) -> ModelError:
    return ModelError(
        "not encrypted by ssd; NVIDIA's own .tlt and .etlt are a closed format that cannot be read",
        where=where,
        hint="save the .tlt as .hdf5 with TAO 5: tao model ssd prune -m FILE.tlt -k KEY -pth -1 -o FILE.hdf5 "
        "(-1 prunes nothing); for an .etlt, the .tlt it was exported from",
    )

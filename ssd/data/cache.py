"""Decoded images kept for later epochs, in memory or in a folder.

Either way they are one file of raw pixels, which a TensorFlow op maps into memory: a crop of an image is had without
Python, and nothing else of it is read. In memory the file has no name and goes with the process. In a folder
`pixels.raw` only ever grows, and `index.json` says what is where; it is replaced whole, once the pixels are on disk, so
what a killed run left behind the last image that the index names is overwritten by the next run. An image is looked up
by its file's path, size and time of change: one that changed is decoded anew. Its old pixels stay; to get rid of them,
delete the folder. Where the pixels were written to after the index, by a run that was killed or by something else,
their checksums say which images are still whole.
"""

import contextlib
import fcntl
import json
import os
import shutil
import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from ssd import console, files
from ssd.data.sources import ImageIndex
from ssd.errors import DataError, InputError
from ssd.memory import available_memory

# `decoded(numbers)`: those images of the index in that order, uint8 `(h, w, 3)`, upright.
Decoder = Callable[[Sequence[int]], Iterable[np.ndarray]]
FORMAT = "ssd decoded images 2"
PIXELS, INDEX, LOCK = "pixels.raw", "index.json", "lock"
# TensorFlow hands on a part of a tensor without a copy where it begins at a multiple of this many bytes.
ALIGNMENT = 64
# Of the memory that is free. The training itself needs some.
USABLE = 0.8
# Bytes after which a folder's index is brought up to date, so that a killed run loses no more than this.
SAVE_EVERY = 1 << 30


class Kept(NamedTuple):
    """An image in the file: its first byte, its bytes with what fills up to the next image, and their checksum."""

    start: int
    length: int
    crc: int


class PixelCache:
    """Upright images as uint8 RGB, for TensorFlow graphs of this process."""

    def __init__(self, file, starts: Sequence[int], sizes: np.ndarray):
        """Takes over an open file. `starts`: byte of each image's first pixel; `sizes`: `(n, 2)` height, width, px."""
        # By this name it can be opened for as long as this object lives, even when somebody deletes the folder.
        self._path, self._bytes = f"/proc/self/fd/{file.fileno()}", os.fstat(file.fileno()).st_size
        with tf.device("CPU:0"):  # where tf.data works
            self._starts, self._sizes = tf.constant(starts, tf.int64), tf.constant(sizes, tf.int32)
        weakref.finalize(self, file.close)

    def image(self, number: tf.Tensor) -> tf.Tensor:
        """Image `number`, int32 scalar: uint8 `(h, w, 3)`."""
        # Mapped for every sample, which costs little. Mapped once, it would be a constant, and tf.data copies those.
        everything = tf.raw_ops.ImmutableConst(dtype=tf.uint8, shape=[self._bytes], memory_region_name=self._path)
        shape = tf.concat([self._sizes[number], [3]], axis=0)
        length = tf.reduce_prod(tf.cast(shape, tf.int64), keepdims=True)
        return tf.reshape(tf.slice(everything, self._starts[number, tf.newaxis], length), shape)

    def window(self, number: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
        """Part of it, as `images.decode_window`; `window` int32 `(4,)`: y, x, height, width, px."""
        return tf.slice(self.image(number), [window[0], window[1], 0], [window[2], window[3], 3])


def in_memory(index: ImageIndex, decoded: Decoder) -> PixelCache:
    """Decodes all images into memory. Raises DataError where they need more than there is."""
    needed, free = sum(_lengths(index.sizes)), available_memory()
    if needed > free * USABLE:
        raise DataError(
            f"--cache memory: {len(index)} decoded images need {_gib(needed)}; {_gib(free)} of memory are free, of "
            f"which {USABLE:.0%} may be used",
            hint="--cache disk keeps them in a folder",
        )
    file = os.fdopen(os.memfd_create("ssd decoded images"), "r+b")
    kept = _append(file, 0, index, range(len(index)), decoded)
    file.flush()
    return PixelCache(file, [image.start for image in kept.values()], index.sizes)


def in_folder(folder: Path, index: ImageIndex, decoded: Decoder) -> PixelCache:
    """Decodes the images that the folder lacks. Where another run is doing so, waits for it.

    Raises:
        InputError: the folder cannot be written, or has other files; DataError: its disk is too small.
    """
    if folder.is_dir():
        names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
        if others := sorted(names - {PIXELS, INDEX, LOCK}):
            raise InputError(
                f"--cache {folder}: there are other files than a cache's in it: {others[0]}",
                hint="name a folder of its own; it is made where there is none",
            )
    keys, lengths = _keys(index), _lengths(index.sizes)
    if not folder.exists():
        _check_room(folder, lengths)  # so that it is not made in vain
    folder = files.results_folder(folder, "--cache")
    with _alone(folder):
        known, end = _read_index(folder)
        if not end and (folder / PIXELS).exists():
            (folder / PIXELS).unlink()  # not truncated: another run may still be reading it
        missing = [n for n, key in enumerate(keys) if key not in known or known[key].length != lengths[n]]
        _check_room(folder, [lengths[n] for n in missing])
        file = open(folder / PIXELS, "r+b" if end else "w+b")  # noqa: SIM115  (PixelCache closes it)

        def save(kept: dict[int, Kept]) -> None:
            file.flush()
            os.fsync(file.fileno())
            known.update({keys[n]: image for n, image in kept.items()})
            written = os.fstat(file.fileno()).st_mtime_ns
            files.write_text(folder / INDEX, json.dumps({"format": FORMAT, "written": written, "images": known}))

        try:
            if missing:
                _append(file, end, index, missing, decoded, save)
            else:
                save({})  # what was checked need not be checked again
        except OSError as error:
            raise InputError(f"--cache {folder}: cannot write there: {error.strerror or error}") from error
    return PixelCache(file, [known[key].start for key in keys], index.sizes)


def _append(file, end: int, index: ImageIndex, numbers: Sequence[int], decoded: Decoder, save=None) -> dict[int, Kept]:
    """Writes images behind byte `end`; returns where each is. `save` is told so far, every now and then."""
    kept, unsaved = {}, 0
    file.truncate(end)
    file.seek(end)
    try:
        with console.progress(total=len(numbers), label="decoding once") as bar:
            for number, image in zip(numbers, decoded(numbers), strict=True):
                pixels, filling = np.ascontiguousarray(image).data, bytes(-image.size % ALIGNMENT)
                start = file.tell()
                file.write(pixels)
                file.write(filling)
                kept[number] = Kept(start, file.tell() - start, zlib.crc32(filling, zlib.crc32(pixels)))
                unsaved += image.size
                if save and unsaved >= SAVE_EVERY:
                    save(kept)
                    unsaved = 0
                bar.update()
    finally:
        if save:  # an image that does not decode, or Ctrl-C, costs nothing of what is there
            save(kept)
    return kept


def _check_room(folder: Path, lengths: Sequence[int]) -> None:
    """Raises DataError where the folder's disk (to be: the folder need not exist) has less room than images take."""
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    needed, free = sum(lengths), shutil.disk_usage(place).free
    if needed > free:
        raise DataError(
            f"--cache {folder}: {len(lengths)} decoded images need {_gib(needed)}, {_gib(free)} are free there",
            hint="delete what is in it, or name a folder on another disk",
        )


def _lengths(sizes: np.ndarray) -> list[int]:
    """Bytes of images `(n, 2)` height, width, up to where the next one may begin."""
    pixels = sizes.astype(np.int64).prod(axis=1) * 3
    return (-(-pixels // ALIGNMENT) * ALIGNMENT).tolist()


def _keys(index: ImageIndex) -> list[str]:
    """What an image is looked up by: its file as it is now, and its place in it."""
    states = {}
    for path in set(index.files):
        try:
            state = os.stat(path)
        except OSError as error:
            raise DataError(f"cannot read the image: {error.strerror}", where=path) from error
        states[path] = f"{os.path.abspath(path)} {state.st_size} {state.st_mtime_ns}"
    return [f"{states[path]} {start}" for path, start in zip(index.files, index.spans[:, 0].tolist(), strict=True)]


def _read_index(folder: Path) -> tuple[dict[str, Kept], int]:
    """Key -> where it is in the pixels; nothing where the folder is no cache or its pixels are cut off.

    And the byte behind the last image, a damaged one too: runs under way may still read what is before.
    """
    try:
        content = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        images = {key: Kept(*map(int, numbers)) for key, numbers in content["images"].items()}
        end = max((image.start + image.length for image in images.values()), default=0)
        state = os.stat(folder / PIXELS)
        if content["format"] == FORMAT and state.st_size >= end:
            return images if state.st_mtime_ns == content["written"] else _whole(folder, images), end
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    return {}, 0


def _whole(folder: Path, images: dict[str, Kept]) -> dict[str, Kept]:
    """Those whose pixels are what they were."""
    whole = {}
    with open(folder / PIXELS, "rb") as file, console.progress(total=len(images), label="checking the cache") as bar:
        for key, image in images.items():
            file.seek(image.start)
            if zlib.crc32(file.read(image.length)) == image.crc:
                whole[key] = image
            bar.update()
    if lost := len(images) - len(whole):
        console.warn(
            f"--cache {folder}: something else wrote into it; decoding {lost} of its {len(images)} images again"
        )
    return whole


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time; the others wait."""
    # A file of its own, open for writing: network file systems lock nothing else.
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            console.say(f"--cache {folder}: waiting for another run that decodes into it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:
            raise InputError(
                f"--cache {folder}: this file system has no locks ({error.strerror})",
                hint="name a folder on another disk",
            ) from error
        yield
    finally:
        os.close(handle)


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"

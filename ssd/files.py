"""Files appear whole or not at all: write beside, fsync, rename."""

import contextlib
import os
import secrets
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from ssd.errors import InputError


@contextlib.contextmanager
def whole_file(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary path beside `path` that takes its name when the block ends well and vanishes when it does not.

    The temporary name keeps the suffix, since savers look at it: `weights/.tmp-1f2e3d4c-last.keras`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{secrets.token_hex(4)}-{path.name}")
    # Not mkstemp: it makes private files, and a result should be as readable as any other file of the user.
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes `text` to `path`, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def same_file(source: str | os.PathLike, target: str | os.PathLike) -> None:
    """Gives the file `source` the second name `target` (a hard link, a copy where links are not to be had)."""
    import shutil

    with whole_file(target) as temporary:
        temporary.unlink()
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


@contextlib.contextmanager
def sole_writer(folder: Path, what: str) -> Iterator[None]:
    """Keeps other processes that ask for the same folder out, until the block or the process ends.

    Raises:
        InputError: another process is in; `what` names it.
    """
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"{folder}: {what} is writing there", hint="wait for it, or name another folder"
            ) from error
        except OSError as error:  # some network file systems lock no folders
            from ssd.console import log

            log.debug("%s cannot be locked (%s); no other run must write there", folder, error.strerror)
        yield
    finally:
        os.close(handle)


def overwritten(output: Path, inputs: Iterable[str | os.PathLike]) -> Path | None:
    """The one of `inputs` that writing `output` would replace."""
    if not output.exists():
        return None
    present = (Path(path).expanduser() for path in inputs)
    return next((path for path in present if path.is_file() and path.samefile(output)), None)


def results_folder(path: str | os.PathLike, flag: str = "-r/--results_dir") -> Path:
    """Makes the folder, or says in one line why it cannot be had."""
    folder = Path(path).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except FileExistsError as error:
        raise InputError(f"{flag} {path}: this is a file, a folder is needed") from error
    except OSError as error:
        raise InputError(f"{flag} {path}: cannot write there: {error.strerror or error}") from error
    return folder


def _sync_folder(folder: Path) -> None:
    # The rename itself must reach the disk; some file systems do not allow it on folders.
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

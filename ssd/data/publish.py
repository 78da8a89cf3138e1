"""How the files of a conversion get their names: written aside, then all together in place of the earlier ones."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ssd import files
from ssd.data import manifest
from ssd.data.records import SHARD_SUFFIX, index_path


@contextlib.contextmanager
def staging_folder(prefix: Path) -> Iterator[Path]:
    """A folder `.tmp-<name>` beside the results, empty, this run's alone, gone afterwards.

    What a killed run left in it is removed. Raises InputError while another run holds it.
    """
    path = prefix.with_name(f".tmp-{prefix.name}")
    path.mkdir(exist_ok=True)
    with files.sole_writer(path, "another dataset_convert"):
        for left_over in path.iterdir():
            left_over.unlink()
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)


def publish(staging: Path, prefix: Path, summary: manifest.Manifest) -> None:
    """Old files out, new files in. From the first step to the last the manifest says that this is unfinished."""
    manifest.write(prefix, replace(summary, complete=False))
    new = sorted(path.name for path in staging.iterdir())
    for path in earlier_files(prefix):
        if path.name not in new:
            path.unlink()
    for name in new:
        os.replace(staging / name, prefix.with_name(name))
    manifest.write(prefix, summary)


def earlier_files(prefix: Path) -> list[Path]:
    """Shards, index files and problem list that runs with this prefix wrote; nothing that merely starts alike."""
    found = []
    for path in prefix.parent.iterdir():
        name = path.name.removeprefix("idx-")
        if not name.startswith(prefix.name) or not path.is_file():
            continue
        rest = name[len(prefix.name) :]
        # A file named like the prefix itself is ours only when it is indexed.
        is_shard = SHARD_SUFFIX.fullmatch(rest) and (rest or index_path(prefix).exists())
        if is_shard or path.name == f"{prefix.name}-problems.csv":
            found.append(path)
    return found


def make_folder(folder: Path) -> list[Path]:
    """Makes the folder of the results; the folders that had to be made, innermost first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    files.results_folder(folder, "-o/--output_filename")
    return missing


def remove_if_empty(folder: Path) -> None:
    """For a folder that a failed run made."""
    with contextlib.suppress(OSError):
        folder.rmdir()

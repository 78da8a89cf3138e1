"""`<prefix>-manifest.json`: what a conversion wrote, so that training can tell whether it fits.

It is written twice: before the shards take their names with `complete: false`, and after them. What a killed run
leaves is thus either the earlier conversion, whole, or something that says it is unfinished.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ssd import console, files
from ssd.data.records import SHARD_SUFFIX
from ssd.errors import DataError
from ssd.spec.config import class_key

FORMAT = "ssd records"
VERSION = 1


@dataclass(frozen=True)
class Fold:
    """One partition. `role` is "training", "validation", or "" where nobody said."""

    fold: int
    role: str
    images: int
    objects: dict[str, int]  # class -> boxes


@dataclass(frozen=True)
class Shard:
    """One record file; `crc32c` is of its bytes, in hex."""

    file: str
    fold: int
    records: int
    size: int  # bytes
    crc32c: str


@dataclass(frozen=True)
class Manifest:
    """What a conversion wrote under one prefix."""

    classes: tuple[str, ...]  # in index order: the first is class 1
    class_mapping: tuple[tuple[str, str], ...]
    validation_fold: int | None
    max_objects: int  # of one image
    folds: tuple[Fold, ...]
    shards: tuple[Shard, ...]
    spec: str  # the resolved conversion spec
    complete: bool = True


def path_of(prefix: str | os.PathLike) -> Path:
    """The manifest of an output prefix."""
    return Path(f"{prefix}-manifest.json")


def write(prefix: str | os.PathLike, manifest: Manifest) -> None:
    """Whole or not at all."""
    content = {"format": FORMAT, "version": VERSION, **asdict(manifest)}
    files.write_text(path_of(prefix), json.dumps(content, indent=1) + "\n")


def load(shard: str | os.PathLike) -> Manifest | None:
    """The manifest of the conversion that wrote `shard`; None where there is none (TAO wrote none).

    Raises:
        DataError: it is no manifest, or of a later version.
    """
    path = path_of(SHARD_SUFFIX.sub("", str(shard)))
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataError("cannot read this manifest", where=str(path), hint=_AGAIN) from error
    try:
        if content["format"] != FORMAT:
            raise KeyError("format")
        if content["version"] > VERSION:
            raise DataError(
                f"written by a later ssd (manifest version {content['version']}, known is {VERSION})", where=str(path)
            )
        return Manifest(
            classes=tuple(content["classes"]),
            class_mapping=tuple((source, target) for source, target in content["class_mapping"]),
            validation_fold=content["validation_fold"],
            max_objects=content["max_objects"],
            folds=tuple(Fold(**fold) for fold in content["folds"]),
            shards=tuple(Shard(**shard) for shard in content["shards"]),
            spec=content["spec"],
            complete=content["complete"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError("this is no manifest of dataset_convert", where=str(path), hint=_AGAIN) from error


_AGAIN = "run dataset_convert again"


def check(shards: Sequence[str], classes: Sequence[str], *, training: bool = False) -> list[Manifest]:
    """Do these record files fit a spec with `classes`? Files without a manifest (TAO's) pass.

    Args:
        shards: paths, from `records.find_shards`.
        classes: the spec's target classes in index order.
        training: warn when the files hold a conversion's validation fold besides others.

    Returns:
        The manifests found, one per prefix.

    Raises:
        DataError: another class list, an unfinished conversion, a file that is not the one the manifest lists, a shard
            of the same fold that is gone.
    """
    groups: dict[str, list[str]] = {}
    for shard in shards:
        groups.setdefault(SHARD_SUFFIX.sub("", str(shard)), []).append(str(shard))
    found = []
    for prefix, members in groups.items():
        manifest = load(members[0])
        if manifest is not None:
            _check_group(prefix, members, manifest, classes)
            found.append(manifest)
            if training:
                _warn_of_validation_fold(prefix, members, manifest)
    return found


def _check_group(prefix: str, members: list[str], manifest: Manifest, classes: Sequence[str]) -> None:
    where = str(path_of(prefix))
    if not manifest.complete:
        raise DataError("this conversion was interrupted; its records are not to be used", where=where, hint=_AGAIN)
    if [class_key(name) for name in manifest.classes] != [class_key(name) for name in classes]:
        missing = sorted(set(manifest.classes) - set(classes))
        extra = sorted(set(classes) - set(manifest.classes))
        parts = [f"only in the records: {', '.join(missing)}"] if missing else []
        parts += [f"only in the spec: {', '.join(extra)}"] if extra else []
        raise DataError(
            f"the records were made for other classes: {_short(manifest.classes)}; the spec has {_short(classes)}"
            + (f" ({'; '.join(parts)})" if parts else ""),
            where=where,
            hint="use the target_class_mapping of the conversion, or run dataset_convert again with the spec's",
        )
    listed = {shard.file: shard for shard in manifest.shards}
    for member in members:
        shard = listed.get(os.path.basename(member))
        if shard is None:
            raise DataError("this record file is not of the conversion in its manifest", where=member, hint=_AGAIN)
        size = os.stat(member).st_size
        if size != shard.size:
            raise DataError(
                f"has {size} bytes, its manifest says {shard.size}", where=member, hint="copy it again, or " + _AGAIN
            )
    # Whoever names some shards of a fold has the others too; a lost one would train on less data without a word.
    folds = {listed[os.path.basename(member)].fold for member in members}
    folder = os.path.dirname(prefix)
    lost = [shard.file for shard in manifest.shards if shard.fold in folds]
    lost = [name for name in lost if not os.path.exists(os.path.join(folder, name))]
    if lost:
        raise DataError(f"{len(lost)} of its record files are not here: {_short(lost)}", where=where, hint=_AGAIN)


def _warn_of_validation_fold(prefix: str, members: list[str], manifest: Manifest) -> None:
    names = {os.path.basename(member) for member in members}
    folds = {shard.fold for shard in manifest.shards if shard.file in names and shard.records}
    if manifest.validation_fold in folds and len(folds) > 1:
        console.warn(
            f"{prefix}: the training data include validation fold {manifest.validation_fold}; "
            f"name the training fold, as in '{prefix}-fold-{max(folds):03d}*', to keep it out"
        )


def _short(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 8 else f"{', '.join(names[:6])}, ... ({len(names)})"

"""Which images `ssd inference` reads, and the names under which it writes."""

import glob
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ssd.console import warn
from ssd.data.sources import EXTENSIONS
from ssd.errors import InputError

KINDS = " ".join(EXTENSIONS)
FLAG = "-i/--image_dir"


@dataclass(frozen=True)
class Outputs:
    """Where the results of one image go."""

    picture: Path
    label: Path


def find_images(text: str) -> list[Path]:
    """The images that a file name, a folder (flat, as in TAO) or a pattern names, sorted."""
    path = Path(text).expanduser()
    if path.is_file():
        if not _is_image(path):
            raise InputError(f"{FLAG} {text}: the suffix is none of {KINDS}")
        return [path]
    if path.is_dir():
        return _in_folder(path, text)
    if not glob.has_magic(text):
        raise InputError(f"{FLAG} {text}: no such file or folder")
    found = [Path(name) for name in glob.glob(str(path), recursive=True)]
    images = sorted(name for name in found if name.is_file() and _is_image(name))
    if not images:
        other = f"; {len(found)} other files or folders do" if found else ""
        raise InputError(f"{FLAG} {text}: no image ({KINDS}) matches the pattern{other}")
    return images


def output_names(paths: list[Path], folder: Path) -> list[Outputs]:
    """`images_annotated/<name>` and `labels/<stem>.txt` in `folder` for each image; no two the same, none an input.

    Images whose names differ in the suffix only get `labels/<name>.txt`, with a warning.
    """
    _keep_inputs(paths, folder)
    names = Counter(path.name for path in paths)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        first, second = [path for path in paths if path.name == twice[0]][:2]
        raise InputError(
            f"{first} and {second} would both be written to images_annotated/{twice[0]} ({len(twice)} such names)",
            where=FLAG,
            hint="run once for each folder, each with its own -r",
        )
    stems = Counter(path.stem for path in paths)
    shared = [path.name for path in paths if stems[path.stem] > 1]
    if shared:
        warn(
            f"{len(shared)} images share a name but for the suffix; their labels keep it: labels/{shared[0]}.txt, "
            f"labels/{shared[1]}.txt{', ...' if len(shared) > 2 else ''}"
        )
    labels = [f"{path.name if stems[path.stem] > 1 else path.stem}.txt" for path in paths]
    clash = [label for label, count in Counter(labels).items() if count > 1]
    if clash:
        raise InputError(
            f"two images would both be written to labels/{clash[0]}", where=FLAG, hint="rename one of them"
        )
    return [
        Outputs(folder / "images_annotated" / path.name, folder / "labels" / label)
        for path, label in zip(paths, labels, strict=True)
    ]


def _in_folder(folder: Path, text: str) -> list[Path]:
    entries = sorted(folder.iterdir())
    images = [path for path in entries if _is_image(path) and path.is_file()]
    if images:
        others = sorted({path.suffix.lower() or path.name for path in entries if path.is_file()} - set(EXTENSIONS))
        if others:
            warn(f"{FLAG} {text}: left out what is none of {KINDS}: {' '.join(others)}")
        return images
    if any(path.is_dir() for path in entries):
        hint = f"subfolders are not searched: name one, or a pattern such as '{folder}/**/*.jpg'"
    else:
        hint = f"looked for {KINDS} among its {len(entries)} files"
    raise InputError(f"{FLAG} {text}: no image in this folder", hint=hint)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in EXTENSIONS and not path.name.startswith(".")


def _keep_inputs(paths: list[Path], folder: Path) -> None:
    inputs = {path.resolve().parent for path in paths}
    if folder.resolve() in inputs:
        raise InputError(f"-r/--results_dir {folder}: this is the folder of the images", hint="name another folder")
    for name in ("images_annotated", "labels"):
        if (folder / name).resolve() in inputs:
            raise InputError(
                f"-r/--results_dir {folder}: {name} in it would overwrite the images", hint="name another folder"
            )

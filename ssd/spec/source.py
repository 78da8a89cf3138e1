"""A spec file as text, and where its fields stand in it."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from ssd.errors import InputError, SpecError

MAX_BYTES = 4 * 2**20  # a spec is a few kilobytes; a model or an image given by mistake is more


@dataclass
class Source:
    """The name of a spec and the line of every field in it, by path: `ssd_config.scales`, `image_mean["b"]`."""

    name: str
    lines: dict[str, int] = field(default_factory=dict)

    def at(self, path: str) -> str:
        """`spec.txt:14` of the field, of the block that should hold it, or just the name."""
        while path:
            if path in self.lines:
                return f"{self.name}:{self.lines[path]}"
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return self.name


@dataclass
class Findings:
    """What is wrong with a spec, and what its owner should know."""

    source: Source
    problems: list[InputError] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    partly_read: bool = False  # some fields were given and could not be read

    def wrong(self, path: str, message: str, hint: str | None = None) -> None:
        """Notes a problem: `spec.txt:14: PATH MESSAGE`."""
        self.problems.append(SpecError(f"{path} {message}", where=self.source.at(path), hint=hint))

    def absent(self, path: str, message: str, hint: str | None = None) -> None:
        """Notes what is missing, unless it may be among what could not be read."""
        if not self.partly_read:
            self.wrong(path, message, hint)

    def warn(self, path: str, message: str) -> None:
        """Notes a warning: `spec.txt:14: PATH MESSAGE`."""
        self.warnings.append(f"{self.source.at(path)}: {path} {message}")


def read_spec(path: str | os.PathLike) -> str:
    """The text of a spec file. Raises SpecError for what is no text file."""
    name = os.fspath(path)
    file = Path(name).expanduser()
    try:
        if file.is_dir():
            raise SpecError("is a folder, a spec file is needed", where=name)
        with open(file, "rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise SpecError("no such file", where=name, hint=_neighbours(file)) from error
    except (OSError, ValueError) as error:
        raise SpecError(f"cannot be read: {getattr(error, 'strerror', None) or error}", where=name) from error
    if len(data) > MAX_BYTES or b"\0" in data:
        raise SpecError("is no text file; a spec is prototxt in UTF-8", where=name)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        message = f"is not UTF-8 text: byte 0x{data[error.start]:02x} cannot be read"
        raise SpecError(message, where=f"{name}:{line}", hint="save the file as UTF-8") from error
    return text


def _neighbours(file: Path) -> str | None:
    """Specs that lie where the missing one was looked for."""
    from difflib import get_close_matches

    if not file.parent.is_dir():
        return f"there is no folder {file.parent} either"
    near = get_close_matches(file.name, os.listdir(file.parent), n=3)
    return f"near it: {', '.join(near)}" if near else None

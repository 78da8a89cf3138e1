"""What became of a file's weights: for the terminal by part of the network, and as JSON."""

from collections.abc import Iterable
from dataclasses import dataclass

SHOWN = 6  # names in a line; a detector has six heads of a kind


@dataclass(frozen=True)
class Fate:
    """One layer of the network.

    Args:
        layer: its name.
        part: "block 3", "expansion", "dssd", "prediction", "heads".
        tensors: how many it has.
        reason: why the file's were not loaded; None where they were.
    """

    layer: str
    part: str
    tensors: int
    reason: str | None = None


@dataclass(frozen=True)
class Report:
    """All layers of a network that have weights, in its order."""

    kind: str
    fates: tuple[Fate, ...]
    unused: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def loaded(self) -> int:
        """Tensors."""
        return sum(fate.tensors for fate in self.fates if fate.reason is None)

    @property
    def total(self) -> int:
        return sum(fate.tensors for fate in self.fates)

    @property
    def complete(self) -> bool:
        return self.loaded == self.total

    def lines(self, source: str) -> list[str]:
        """For the terminal; `source` names the file."""
        lines = [f"initial weights: {self.loaded} of {self.total} tensors from {source} ({self.kind})"]
        for part in _in_order(fate.part for fate in self.fates):
            lines.append(f"    {part}: {self._part_line([fate for fate in self.fates if fate.part == part])}")
        if self.unused:
            lines.append(f"    in the file without a place here: {_some(self.unused)}")
        return lines + [f"    {note}" for note in self.notes]

    def as_json(self) -> dict:
        """`loaded` and `total` count tensors; `layers` maps a name to null or the reason why it was not loaded."""
        return {
            "kind": self.kind,
            "loaded": self.loaded,
            "total": self.total,
            "layers": {fate.layer: fate.reason for fate in self.fates},
            "unused": list(self.unused),
            "notes": list(self.notes),
        }

    def _part_line(self, fates: list[Fate]) -> str:
        loaded = sum(fate.tensors for fate in fates if fate.reason is None)
        line = f"{loaded} of {sum(fate.tensors for fate in fates)}"
        for reason in _in_order(fate.reason for fate in fates if fate.reason):
            names = [fate.layer for fate in fates if fate.reason == reason]
            everything = len(names) == len(fates)
            line += f"; {reason}" if everything else f"; {_some(names)}: {reason}"
        return line


def _some(names) -> str:
    shown = ", ".join(names[:SHOWN])
    return f"{shown} and {len(names) - SHOWN} more" if len(names) > SHOWN else shown


def _in_order(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))

"""What is wrong with annotations and images: a list with file and line, its CSV and its counts."""

import csv
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ssd.files import whole_file


@dataclass(frozen=True)
class LabelProblem:
    """One thing wrong in the data.

    `loses` says what the run goes on without: the "object", the "image", or "nothing"; "clipped": part of a box.
    """

    file: str
    line: int | None
    kind: str  # a short phrase that is counted: "empty box", "missing image", ...
    detail: str
    loses: str = "object"

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return f"{where}: {self.detail}"


def count_kinds(problems: Iterable[LabelProblem]) -> list[tuple[str, str, int]]:
    """`(kind, loses, how many)`, most frequent first."""
    counts = Counter((problem.kind, problem.loses) for problem in problems)
    return [
        (kind, loses, number) for (kind, loses), number in sorted(counts.items(), key=lambda item: (-item[1], item))
    ]


def first_lines(problems: Sequence[LabelProblem], most: int = 20) -> list[str]:
    """The first problems as lines, and how many more there are."""
    lines = [str(problem) for problem in problems[:most]]
    return [*lines, f"... and {len(problems) - most} more"] if len(problems) > most else lines


def write_csv(path: str | os.PathLike, problems: Iterable[LabelProblem]) -> None:
    """Columns file, line, problem, detail, loses; whole or not at all."""
    with whole_file(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "line", "problem", "detail", "loses"])
        for problem in problems:
            writer.writerow([problem.file, problem.line or "", problem.kind, problem.detail, problem.loses])

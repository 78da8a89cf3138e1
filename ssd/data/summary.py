"""What a conversion did, as lines for the terminal."""

from collections import Counter
from pathlib import Path

from ssd.data import audit
from ssd.data.convert import Outcome
from ssd.data.sample import DONT_CARE
from ssd.spec.config import class_key

LOSS = {
    "image": "image left out",
    "object": "object left out",
    "clipped": "clipped to the image",
    "nothing": "kept",
}


def table(outcome: Outcome) -> list[str]:
    """Images and objects of each class, one column a fold."""
    folds = outcome.manifest.folds
    without = [sum(r.without_objects for r in outcome.results if r.fold == fold.fold) for fold in folds]
    rows: list[tuple[str, list]] = [
        ("", [f"fold {fold.fold}" + (f" ({fold.role})" if fold.role else "") for fold in folds]),
        ("images", [fold.images for fold in folds]),
        ("without objects", without),
        ("objects", [sum(fold.objects.values()) for fold in folds]),
        *((f"  {name}", [fold.objects[name] for fold in folds]) for name in outcome.manifest.classes),
    ]
    first = max(len(label) for label, _ in rows)
    widths = [max(len(str(cells[column])) for _, cells in rows) for column in range(len(folds))]
    return [
        "  ".join([label.ljust(first), *(str(cell).rjust(width) for cell, width in zip(cells, widths, strict=True))])
        for label, cells in rows
    ]


def skipped(outcome: Outcome) -> list[str]:
    """What was left out or changed, and why; empty when nothing was."""
    lines = []
    for kind, loses, number in audit.count_kinds(outcome.problems):
        names = f" ({_unmapped(outcome)})" if kind == "unmapped class" else ""
        lines.append(f"{number:>8}  {kind}{names}: {LOSS[loses]}")
    return lines + [f"{n:>8}  {note}" for note, n in sorted(outcome.notes.items())]


def _unmapped(outcome: Outcome, most: int = 8) -> str:
    """The class names of the labels that the mapping lacks, most frequent first."""
    mapped = {source for source, _ in outcome.manifest.class_mapping} | {DONT_CARE}
    labels = sum((result.labels for result in outcome.results), Counter())
    names = [f"{name} {number}" for name, number in labels.most_common() if class_key(name) not in mapped]
    return ", ".join(names[:most] + (["..."] if len(names) > most else []))


def patterns(outcome: Outcome, prefix: Path) -> list[str]:
    """What to write into an experiment spec, a line a fold."""
    folds = [fold for fold in outcome.manifest.folds if fold.images]
    if len(folds) == 1:
        return [f'tfrecords_path: "{prefix}-fold*"']
    return [
        f'tfrecords_path: "{prefix}-fold-{fold.fold:03d}*"' + (f"  # {fold.role}" if fold.role else "")
        for fold in folds
    ]


def warnings(outcome: Outcome) -> list[str]:
    """Classes without a single object."""
    totals = {name: sum(fold.objects[name] for fold in outcome.manifest.folds) for name in outcome.manifest.classes}
    empty = [name for name, total in totals.items() if not total]
    return [f"no object of class {', '.join(empty)}"] if empty else []

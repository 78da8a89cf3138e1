"""What a conversion did, as lines for the terminal."""

from ssd.data import audit
from ssd.data.convert import Outcome

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
    lines = [f"{n:>8}  {kind}: {LOSS[loses]}" for kind, loses, n in audit.count_kinds(outcome.problems)]
    return lines + [f"{n:>8}  {note}" for note, n in sorted(outcome.notes.items())]


def warnings(outcome: Outcome) -> list[str]:
    """Classes without a single object."""
    totals = {name: sum(fold.objects[name] for fold in outcome.manifest.folds) for name in outcome.manifest.classes}
    empty = [name for name, total in totals.items() if not total]
    return [f"no object of class {', '.join(empty)}"] if empty else []

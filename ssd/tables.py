"""Text for the terminal: aligned tables, numbers a person can take in, lists that end in time."""

from collections.abc import Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Columns two blanks apart under a line; the first `left` of them to the left, the others to the right."""
    rows = [tuple(header), *map(tuple, rows)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    lines = []
    for row in rows:
        cells = [
            text.ljust(width) if column < left else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def rate(value: float | None) -> str:
    """Three digits; `-` where there was nothing to measure."""
    return "-" if value is None else f"{value:.3f}"


def count(number: float) -> str:
    """`1,234`; `11.17 M`; `2.31 G`."""
    for limit, unit in ((1e9, "G"), (1e6, "M")):
        if number >= limit:
            return f"{number / limit:.2f} {unit}"
    return f"{number:,.0f}"


def size(width: float, height: float) -> str:
    """`21x18`; below 10 px with one digit behind the point."""
    return "x".join(f"{side:.0f}" if side >= 9.95 else f"{side:.1f}" for side in (width, height))


def first(lines: Sequence[str], most: int, where: str) -> list[str]:
    """The first lines, and where the others are."""
    return [*lines[:most], f"... and {len(lines) - most} more in {where}"] if len(lines) > most else list(lines)


def indented(text: str) -> str:
    return "\n".join(f"  {line}" if line else "" for line in text.split("\n"))

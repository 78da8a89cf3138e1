"""The memory of this machine, or of the container or job that the process is in."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def available_memory() -> int:
    """Bytes that can still be had: of the machine, and of every control group that the process is in."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, ValueError, StopIteration):
        free = _number(PROC / "meminfo", "MemAvailable:") * 1024
    return min([free, *_rooms()])


def _rooms() -> Iterator[int]:
    """Bytes that are left below the limit of each group, from the process' own to the outermost one."""
    try:
        lines = (PROC / "self/cgroup").read_text().splitlines()
    except OSError:  # no Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2
            root, limit, used, cached = CGROUPS, "max", "current", "inactive_file"
        elif "memory" in controllers.split(","):
            root, limit, used = CGROUPS / "memory", "limit_in_bytes", "usage_in_bytes"
            cached = "total_inactive_file"
        else:
            continue
        # In a container the path may be that of the machine, which does not show there; its own group is the root then.
        own = root / path.strip("/")
        for group in (own, *own.parents):
            if not group.is_relative_to(root):
                break
            with contextlib.suppress(OSError, ValueError, StopIteration):  # "max", or no limit at all
                most, taken = (int((group / f"memory.{name}").read_text()) for name in (limit, used))
                # What was read from files counts as used, though it goes when memory is wanted.
                yield max(most - taken + _number(group / "memory.stat", cached), 0)


def _number(table: Path, name: str) -> int:
    return next(int(line.split()[1]) for line in table.read_text().splitlines() if line.split()[0] == name)

"""Free memory, of the machine and below the limits of control groups, on made-up files of the kernel."""

import os

import pytest

from ssd import memory

GIB = 2**30


def test_it_is_a_part_of_the_machines():
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < memory.available_memory() <= total


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """`kernel(own, {group: (limit, used, cached)}, version)`: 100 GiB are free on the machine; bytes."""

    def make(own: str, groups: dict[str, tuple], version: int = 2) -> None:
        names = ("max", "current") if version == 2 else ("limit_in_bytes", "usage_in_bytes")
        prefix = "" if version == 2 else "total_"
        (tmp_path / "self").mkdir()
        (tmp_path / "meminfo").write_text(f"MemTotal: 1 kB\nMemAvailable: {100 * GIB // 1024} kB\n")
        line = f"0::{own}" if version == 2 else f"9:cpu:/else\n7:hugetlb,memory:{own}"
        (tmp_path / "self/cgroup").write_text(line + "\n")
        root = tmp_path / "cgroup" / ("" if version == 2 else "memory")
        for group, (limit, used, cached) in groups.items():
            (root / group).mkdir(parents=True, exist_ok=True)
            for name, value in zip(names, (limit, used), strict=True):
                (root / group / f"memory.{name}").write_text(f"{value}\n")
            stat = f"anon 5\n{prefix}inactive_file {cached}\n{prefix}active_file 7\n"
            (root / group / "memory.stat").write_text(stat)

    monkeypatch.setattr(memory, "PROC", tmp_path)
    monkeypatch.setattr(memory, "CGROUPS", tmp_path / "cgroup")
    return make


def test_without_groups_it_is_the_machines(tmp_path, kernel):
    kernel("/", {})
    assert memory.available_memory() == 100 * GIB
    (tmp_path / "self/cgroup").unlink()
    assert memory.available_memory() == 100 * GIB


@pytest.mark.parametrize("version", [1, 2])
def test_files_that_were_read_can_go(kernel, version):
    kernel("/", {"": (16 * GIB, 15 * GIB, 12 * GIB)}, version)
    assert memory.available_memory() == 13 * GIB


@pytest.mark.parametrize("version", [1, 2])
def test_the_tightest_of_nested_groups_counts(kernel, version):
    groups = {"": (90 * GIB, GIB, 0), "job": (8 * GIB, 3 * GIB, 0), "job/step": (60 * GIB, 2 * GIB, 0)}
    kernel("/job/step", groups, version)
    assert memory.available_memory() == 5 * GIB


def test_a_group_without_a_limit(kernel):
    kernel("/job", {"job": ("max", GIB, 0)})
    assert memory.available_memory() == 100 * GIB


def test_a_container_that_sees_only_its_own_group(kernel):
    kernel("/docker/4f5e", {"": (4 * GIB, GIB, 0)}, 1)
    assert memory.available_memory() == 3 * GIB


def test_a_group_beyond_its_limit_has_nothing(kernel):
    kernel("/", {"": (GIB, 2 * GIB, 0)})
    assert memory.available_memory() == 0

"""Limits of made-up control groups, and of real processes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from dynamic.resources import available_memory, cpu_count
from oracle.evaluation.evaluate import free_memory

GIB = 2**30
HOST_CORES, HOST_FREE = 64, 500 * GIB
AFFINITY = getattr(os, "sched_getaffinity", None)


@pytest.fixture(autouse=True)
def _large_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(HOST_CORES)), raising=False)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=HOST_FREE))


def groups(root: Path, mine: str, files: Mapping[str, object]) -> tuple[Path, Path]:
    """A tree of control groups and the file that says where this process is in it."""
    for name, content in files.items():
        (root / "cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "cgroup" / name).write_text(f"{content}\n")
    (root / "mine").write_text(f"{mine}\n")
    return root / "cgroup", root / "mine"


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("1000 100000", 1),
        ("9900000 100000", HOST_CORES),
        ("max 100000", HOST_CORES),
    ],
)
def test_the_quota_of_a_container_bounds_the_cores(tmp_path: Path, quota: str, cores: int) -> None:
    assert cpu_count(*groups(tmp_path, "0::/", {"cpu.max": quota})) == cores


def test_the_smallest_limit_of_nested_groups_wins(tmp_path: Path) -> None:
    tree = {
        "cpu.max": "max 100000",
        "pod/cpu.max": "300000 100000",
        "pod/box/cpu.max": "800000 100000",
        "pod/memory.max": 4 * GIB,
        "pod/memory.current": 3 * GIB,
        "pod/box/memory.max": 2 * GIB,
        "pod/box/memory.current": GIB // 2,
        "other/cpu.max": "100000 100000",
        "other/memory.max": 1,
        "other/memory.current": 1,
    }
    found = groups(tmp_path, "12:cpuset:/elsewhere\n0::/pod/box", tree)
    assert cpu_count(*found) == 3
    assert available_memory(*found) == GIB


def test_control_groups_of_version_one_have_a_folder_for_each_controller(tmp_path: Path) -> None:
    """The path is the host's, of which a container sees the end as its root."""
    tree = {
        "cpu/cpu.cfs_quota_us": 250_000,
        "cpu/cpu.cfs_period_us": 100_000,
        "cpu/docker/one/cpu.cfs_quota_us": -1,
        "cpu/docker/one/cpu.cfs_period_us": 100_000,
        "memory/memory.limit_in_bytes": 4 * GIB,
        "memory/memory.usage_in_bytes": 3 * GIB,
        "memory/memory.stat": f"total_rss {GIB}\ninactive_file 1\ntotal_inactive_file {GIB}",
    }
    found = groups(tmp_path, "9:cpu,cpuacct:/docker/one\n4:memory:/docker/one\n0::/docker/one", tree)
    assert cpu_count(*found) == 3
    assert available_memory(*found) == 2 * GIB
    (tmp_path / "cgroup/memory/memory.limit_in_bytes").write_text("9223372036854771712")
    assert available_memory(*found) == HOST_FREE


def test_caches_of_unused_files_count_as_free(tmp_path: Path) -> None:
    """``-m 4g`` on a large host, where the kernel gives back the caches before it kills."""
    tree = {
        "memory.max": 4 * GIB,
        "memory.current": 3 * GIB,
        "memory.stat": f"anon {GIB}\nfile {2 * GIB}\ninactive_file {GIB}\nactive_file {GIB}",
    }
    assert available_memory(*groups(tmp_path, "0::/", tree)) == 2 * GIB


def test_a_group_above_its_limit_has_nothing_left(tmp_path: Path) -> None:
    assert available_memory(*groups(tmp_path, "0::/", {"memory.max": GIB, "memory.current": GIB + 4096})) == 0


def test_a_limit_above_what_the_host_has_left_changes_nothing(tmp_path: Path) -> None:
    assert available_memory(*groups(tmp_path, "0::/", {"memory.max": 900 * GIB, "memory.current": 0})) == HOST_FREE


@pytest.mark.parametrize(
    ("mine", "files"),
    [
        ("0::/", {"memory.max": "max", "memory.current": 5}),
        ("0::/not/mounted/here", {}),
        ("0::/../outside", {}),
        ("3:cpu:/version/one", {}),
        ("", {}),
    ],
)
def test_without_limits_the_host_counts(tmp_path: Path, mine: str, files: dict[str, object]) -> None:
    found = groups(tmp_path, mine, files)
    assert (cpu_count(*found), available_memory(*found)) == (HOST_CORES, HOST_FREE)


def test_without_control_groups_the_host_counts(tmp_path: Path) -> None:
    assert cpu_count(tmp_path / "a", tmp_path / "b") == HOST_CORES
    assert available_memory(tmp_path / "a", tmp_path / "b") == HOST_FREE


@pytest.mark.skipif(AFFINITY is None, reason="this platform binds no process to cores")
def test_a_thread_bound_to_one_core_sees_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", AFFINITY)

    def bound() -> int:
        os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])  # of this thread alone
        return cpu_count()

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(bound).result() == 1


def test_an_evaluation_asks_the_container(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oracle.evaluation.evaluate.available_memory", lambda: 7)
    assert free_memory("cpu") == 7

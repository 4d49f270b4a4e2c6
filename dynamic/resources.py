"""Cores and memory as the container sees them, not as the host has them; what the allocator keeps."""

from __future__ import annotations

import ctypes
import math
import os
from pathlib import Path

import psutil

_CGROUPS = Path("/sys/fs/cgroup")
_MINE = Path("/proc/self/cgroup")


def cpu_count(cgroups: Path = _CGROUPS, mine: Path = _MINE) -> int:
    """Cores that this process may use: by affinity and by the quota of every control group it is in, at least 1.

    Args:
        cgroups: where control groups (version 2) are mounted.
        mine: names the group of this process, as /proc/self/cgroup does.

    >>> cpu_count() >= 1
    True
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for group in _groups(cgroups, mine):
        quota, _, period = _read(group / "cpu.max").partition(" ")
        if quota.isdigit() and period.isdigit():
            cores = min(cores, math.ceil(int(quota) / int(period)))
    return max(cores, 1)


def available_memory(cgroups: Path = _CGROUPS, mine: Path = _MINE) -> int:
    """Bytes that this process may still take: what the host has free, and the limit of every control group it is in.

    What a group holds in caches of files that nothing uses counts as free, as the host's own number counts it.

    >>> available_memory() > 0
    True
    """
    free = int(psutil.virtual_memory().available)
    for group in _groups(cgroups, mine):
        limit, used = _read(group / "memory.max"), _read(group / "memory.current")
        if limit.isdigit() and used.isdigit():
            caches = dict(line.split() for line in _read(group / "memory.stat").splitlines() if line.count(" ") == 1)
            free = min(free, int(limit) - int(used) + int(caches.get("inactive_file", 0)))
    return max(free, 0)


def keep_freed_memory(arenas: int | None = None) -> None:
    """Tell glibc to keep large freed blocks instead of returning each to the kernel.

    Activations are tens of megabytes; mapping and zeroing them anew for every operation took two thirds of the time of
    rendering scenes on a two-core virtual machine. Does nothing where the C library is another.

    Args:
        arenas: heaps that all threads share, at most. Each keeps its own peak, so a process of many threads that lives
            long wants few; without it glibc makes up to eight a core.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    m_trim_threshold, m_mmap_max, m_arena_max = -1, -4, -8
    mallopt(m_mmap_max, 0)
    mallopt(m_trim_threshold, 2**31 - 1)
    if arenas is not None:
        mallopt(m_arena_max, arenas)


def _groups(cgroups: Path, mine: Path) -> list[Path]:
    """The group of this process and all around it."""
    own = next((line[3:] for line in _read(mine).splitlines() if line.startswith("0::")), "/")
    group = cgroups / own.strip("/")
    return [group, *(parent for parent in group.parents if parent == cgroups or cgroups in parent.parents)]


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""

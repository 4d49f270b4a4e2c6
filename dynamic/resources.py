"""Cores and memory as the container sees them, not as the host has them; what the allocator keeps."""

from __future__ import annotations

import ctypes
import functools
import math
import os
from pathlib import Path

import psutil

_CGROUPS = Path("/sys/fs/cgroup")
_MINE = Path("/proc/self/cgroup")


def cpu_count(cgroups: Path = _CGROUPS, mine: Path = _MINE) -> int:
    """Cores that this process may use: by affinity and by the quota of every control group it is in, at least 1.

    Args:
        cgroups: where control groups are mounted, of version 2 or (a folder for each controller) 1.
        mine: names the group of this process, as /proc/self/cgroup does.

    >>> cpu_count() >= 1
    True
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [_read(group / "cpu.max").partition(" ")[::2] for group in _groups(cgroups, mine)]
    quotas += [
        (_read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us"))
        for group in _groups(cgroups / "cpu", mine, "cpu")
    ]
    for quota, period in quotas:
        if quota.isdigit() and period.isdigit():
            cores = min(cores, math.ceil(int(quota) / int(period)))
    return max(cores, 1)


@functools.cache
def cpu_flags() -> frozenset[str]:
    """Instruction sets of the CPU, by Linux's names such as ``avx512_bf16``; none where the system does not say.

    >>> "bfloat16" in cpu_flags()                       # no such name
    False
    """
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(flag for line in lines if line.startswith("flags") for flag in line.split())


def cpu_has_bfloat16() -> bool:
    """Whether the CPU multiplies in bfloat16, and so is not slower in it than in float32."""
    return bool({"avx512_bf16", "amx_bf16"} & cpu_flags())


def available_memory(cgroups: Path = _CGROUPS, mine: Path = _MINE) -> int:
    """Bytes that this process may still take: what the host has free, and the limit of every control group it is in.

    What a group holds in caches of files that nothing uses counts as free, as the host's own number counts it.

    >>> available_memory() > 0
    True
    """
    free = int(psutil.virtual_memory().available)
    limits = [(group, "max", "current", "inactive_file") for group in _groups(cgroups, mine)]
    limits += [
        (group, "limit_in_bytes", "usage_in_bytes", "total_inactive_file")
        for group in _groups(cgroups / "memory", mine, "memory")
    ]
    for group, most, now, unused in limits:
        limit, used = _read(group / f"memory.{most}"), _read(group / f"memory.{now}")
        if limit.isdigit() and used.isdigit():
            caches = dict(line.split() for line in _read(group / "memory.stat").splitlines() if line.count(" ") == 1)
            free = min(free, int(limit) - int(used) + int(caches.get(unused, 0)))
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


def _groups(cgroups: Path, mine: Path, controller: str = "") -> list[Path]:
    """The group of this process and all around it, of a version 1 controller or (none) of version 2."""
    fields = [line.split(":", 2) for line in _read(mine).splitlines() if line.count(":") >= 2]
    own = next((path for _, names, path in fields if controller in names.split(",")), "/")
    group = cgroups / own.strip("/")
    return [group, *(parent for parent in group.parents if parent == cgroups or cgroups in parent.parents)]


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""

"""How many cores this process may keep busy.

An operator's threads beyond the cores it really has cost time: 4 threads on 2 cores ran twice as slow as 2. Python's
``os.cpu_count`` sees neither a container's quota nor that two hardware threads share one core.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

__all__ = ["core_quota", "read_text", "usable_cores"]


def usable_cores(root: Path = Path("/")) -> int:
    """The least of: physical cores that this process may be scheduled on, and the container's quota rounded down.

    Args:
        root: Where ``/proc`` and ``/sys`` are; without them every processor counts as a core of its own.

    Returns:
        1 or more.
    """
    cores = {_siblings(root, cpu) for cpu in _scheduled_cpus()}
    return max(1, min([len(cores), *map(int, _quotas(root))]))


def core_quota(root: Path = Path("/")) -> float | None:
    """Cores that the container's quota grants, a fraction included; None where there is no quota."""
    return min(_quotas(root), default=None)


def _scheduled_cpus() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    return set(range(os.cpu_count() or 1))  # not Linux


def _siblings(root: Path, cpu: int) -> str:
    """The name of the physical core of a hardware thread: the list of the threads that share it."""
    listed = read_text(root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
    return listed or str(cpu)


def _quotas(root: Path) -> Iterator[float]:
    """Cores granted by each control group that this process is in, groups without a limit left out."""
    mount = root / "sys/fs/cgroup"
    for line in read_text(root / "proc/self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        # In a container the group's name may be the host's; then only the mount's own root is there to be read.
        levels = (PurePosixPath(group), *PurePosixPath(group).parents)
        if not controllers:  # version 2
            for level in levels:
                yield from _ratio(read_text(mount / level.relative_to("/") / "cpu.max"))
        elif "cpu" in controllers.split(","):
            for level in levels:
                folder = mount / controllers / level.relative_to("/")
                quota, period = read_text(folder / "cpu.cfs_quota_us"), read_text(folder / "cpu.cfs_period_us")
                yield from _ratio(f"{quota} {period}")


def _ratio(text: str) -> Iterator[float]:
    """``"150000 100000"`` is 1.5 cores; ``"max 100000"``, ``"-1 100000"`` and nothing at all are no limit."""
    parts = text.split()
    if len(parts) == 2 and parts[0].isdigit() and parts[1].isdigit() and int(parts[1]) > 0:
        yield int(parts[0]) / int(parts[1])


def read_text(file: Path) -> str:
    """A small file of the system, without the blanks around its text; empty when it cannot be read."""
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""

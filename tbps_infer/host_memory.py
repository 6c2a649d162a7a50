"""How much memory the machine has and can still give, as the Linux kernel tells it."""

from __future__ import annotations

import re
from pathlib import Path

from tbps_infer.cores import read_text

__all__ = ["memory_info"]


def memory_info(root: Path = Path("/")) -> dict[str, int]:
    """The lines of ``/proc/meminfo`` in bytes, ``MemTotal`` and ``MemAvailable`` among them; empty elsewhere.

    ``MemAvailable`` is what programs can still get: unlike ``MemFree`` it counts the caches that the kernel gives up.
    """
    pairs = re.findall(r"^(\w+):\s+(\d+) kB$", read_text(root / "proc/meminfo"), re.MULTILINE)
    return {name: 1024 * int(size) for name, size in pairs}

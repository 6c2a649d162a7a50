"""Whether ONNX Runtime's fast INT8 products are right on this processor.

They multiply uint8 with int8. x86 processors without VNNI add pairs of such products up in 16 bits, which saturate:
other embeddings, and no word about it. ONNX Runtime can turn the weights to uint8 when it loads a graph, whose
products are exact everywhere and slower.
"""

from __future__ import annotations

import platform
import re
from pathlib import Path

__all__ = ["products_saturate"]

_X86 = frozenset({"x86_64", "amd64", "i386", "i686"})
_VNNI = re.compile(r"\b(avx512_vnni|avx_vnni)\b")


def products_saturate(machine: str | None = None, cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether products of uint8 and int8 may saturate here: on x86, unless Linux says that there is VNNI.

    Args:
        machine: As `platform.machine` names it.
        cpuinfo: Where Linux lists the processor's features.
    """
    if (machine or platform.machine()).lower() not in _X86:
        return False
    try:
        return _VNNI.search(cpuinfo.read_text(encoding="utf-8", errors="replace")) is None
    except OSError:  # not Linux: exact for certain, and perhaps slower than need be
        return True

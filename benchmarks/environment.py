"""What a figure depends on: the machine, its limits and settings, and the versions of what runs on it.

`Environment.stable` is what must be equal for two samples to be compared; `Environment.conditions` is what changes by
itself (load, clocks of the moment, temperature) and is recorded beside it. Every file is read below a given root.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tbps_infer.cores import core_quota, read_text, usable_cores
from tbps_infer.devices import installed_versions
from tbps_infer.host_memory import memory_info

__all__ = ["PACKAGES", "Environment", "list_changes", "record_environment", "run_tool"]

PACKAGES = (
    "tbps-infer",
    "numpy",
    "torch",
    "transformers",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
    "tensorrt-rtx",
    "cuda-bindings",
    "pycuda",
    "tokenizers",
    "pillow",
    "numkong",
    "usearch",
    "faiss-cpu",
)
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY")
# What products of float32 and int8 are computed with.
_MATTERING_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "asimddp", "i8mm", "sve")
_CPU = "sys/devices/system/cpu/cpu0/cpufreq"
_SMI_STABLE = ("name", "driver_version", "power.limit", "clocks.max.sm", "clocks.max.mem", "persistence_mode")
_SMI_MOMENT = ("clocks.sm", "clocks.mem", "pstate", "power.draw", "temperature.gpu", "clocks_throttle_reasons.active")

Tool = Callable[[Sequence[str]], str]


@dataclass(frozen=True)
class Environment:
    """See the module.

    Attributes:
        stable: Plain JSON values that samples must agree in.
        conditions: Plain JSON values of the moment.
    """

    stable: Mapping[str, Any]
    conditions: Mapping[str, Any]

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of the sha256 of the stable facts."""
        canonical = json.dumps(self.stable, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    def differences(self, earlier: Environment) -> list[str]:
        """The stable facts that are not as they were, one phrase each; empty when samples may be compared."""
        return list_changes(_flat(earlier.stable), _flat(self.stable))

    def describe(self) -> Iterator[str]:
        """The stable facts that a reader of figures needs, a sentence each."""
        facts = self.stable
        quota, flags = facts.get("quota_cores"), " ".join(facts.get("cpu_flags") or ())
        cores = f"{facts.get('usable_cores')} usable cores" + (f" (quota {quota:g})" if quota is not None else "")
        memory = f"{facts['memory_bytes'] / 2**30:.1f} GiB" if facts.get("memory_bytes") else "unknown memory"
        yield f"CPU: {facts.get('cpu') or 'unknown'}, {cores}, {memory}" + (f", {flags}" if flags else "")
        yield f"System: {facts.get('system')}, Python {facts.get('python')}"
        yield "Packages: " + ", ".join(f"{name} {version}" for name, version in facts.get("packages", {}).items())
        if facts.get("board"):
            yield f"Board: {facts['board']}, power mode {facts.get('power_mode') or 'unknown'}"
        governor, most = facts.get("governor"), facts.get("most_cpu_mhz")
        if governor or most:
            yield f"CPU clock: governor {governor or 'unknown'}, at most {most or 'unknown'} MHz"
        for gpu in facts.get("gpus", ()):
            yield "GPU: " + ", ".join(f"{name} {value}" for name, value in gpu.items())
        if facts.get("threads"):
            yield "Threads: " + ", ".join(f"{name}={value}" for name, value in facts["threads"].items())


def list_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The values that are not as they were, one phrase each."""
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return [f"{name}: {before.get(name)!r}, now {now.get(name)!r}" for name in names]


def run_tool(command: Sequence[str]) -> str:
    """Standard output of a program; empty when it is not there, fails, or takes over 10 seconds."""
    try:
        done = subprocess.run(list(command), capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout


def record_environment(
    root: Path = Path("/"), tool: Tool = run_tool, packages: Sequence[str] = PACKAGES
) -> Environment:
    """Look at the machine; what it does not tell is None or left out.

    Args:
        root: Where ``/proc`` and ``/sys`` are.
        tool: Runs a program and gives its standard output.
        packages: Whose versions are recorded.
    """
    cpu = _cpu_info(root)
    memory = memory_info(root)
    devfreq = _gpu_clock_files(root)
    board = root / "proc/device-tree/model"
    stable = {
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "board": read_text(board).rstrip("\0") or None,
        "cpu": cpu.get("model name") or cpu.get("Hardware") or platform.processor() or None,
        "cpu_flags": [flag for flag in _MATTERING_FLAGS if flag in cpu.get("flags", "").split()],
        "logical_cpus": os.cpu_count(),
        "usable_cores": usable_cores(root),
        "quota_cores": core_quota(root),
        "memory_bytes": memory.get("MemTotal"),
        "governor": read_text(root / _CPU / "scaling_governor") or None,
        "most_cpu_mhz": _mhz(read_text(root / _CPU / "scaling_max_freq")),
        "gpus": _nvidia_smi(tool, _SMI_STABLE),
        "power_mode": _power_mode(tool) if board.is_file() else None,
        "most_gpu_mhz": [_mhz(read_text(file / "max_freq"), 1e6) for file in devfreq],
        "threads": {name: os.environ[name] for name in _THREAD_VARIABLES if name in os.environ},
        "python": platform.python_version(),
        "packages": installed_versions(packages),
    }
    conditions = {
        "load": [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "cpu_mhz": _mhz(read_text(root / _CPU / "scaling_cur_freq")) or _mhz(cpu.get("cpu MHz", ""), 1),
        "available_bytes": memory.get("MemAvailable"),
        "gpus": _nvidia_smi(tool, _SMI_MOMENT),
        "gpu_mhz": [_mhz(read_text(file / "cur_freq"), 1e6) for file in devfreq],
    }
    return Environment(stable, conditions)


def _cpu_info(root: Path) -> dict[str, str]:
    """The first processor's entry; on Arm the flags are called Features."""
    entries: dict[str, str] = {}
    for line in read_text(root / "proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        key = {"Features": "flags"}.get(name.strip(), name.strip())
        entries.setdefault(key, value.strip())
    return entries


def _nvidia_smi(tool: Tool, names: Sequence[str]) -> list[dict[str, str]]:
    """Each GPU's facts as nvidia-smi words them; none where it does not know one of the names."""
    listed = tool(["nvidia-smi", f"--query-gpu={','.join(names)}", "--format=csv,noheader"])
    rows = [[cell.strip() for cell in line.split(",")] for line in listed.splitlines() if line.strip()]
    return [dict(zip(names, row, strict=True)) for row in rows if len(row) == len(names)]


def _power_mode(tool: Tool) -> str | None:
    """``15W`` from the answer of ``nvpmodel -q``: "NV Power Mode: 15W", then the mode's number."""
    match = re.search(r"NV Power Mode:\s*(\S+)", tool(["nvpmodel", "-q"]))
    return match[1] if match else None


def _gpu_clock_files(root: Path) -> list[Path]:
    """The folders of a Jetson's GPU clocks: ``/sys/class/devfreq/17000000.gpu`` on Orin."""
    folder = root / "sys/class/devfreq"
    return sorted(folder.glob("*.gpu")) + sorted(folder.glob("*.ga10b")) if folder.is_dir() else []


def _mhz(text: str, per_mhz: float = 1e3) -> float | None:
    with suppress(ValueError):
        return round(float(text) / per_mhz, 1)
    return None


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name} ")
        else:
            flat[f"{prefix}{name}"] = value
    return flat

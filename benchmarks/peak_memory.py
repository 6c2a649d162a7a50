"""Peak memory of one branch on one backend, measured in a process of its own that opens it and runs one batch.

Run as a program it reads a `PeakTask` from its argument and prints what it found.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tbps_infer.benchmarks.backends import Choice, Models, open_choice
from tbps_infer.devices import Device, MemoryKind
from tbps_infer.errors import BenchmarkError
from tbps_infer.model_facts import Branch
from tbps_infer.tensorrt.device_memory import find_gpu
from tbps_infer.text import Tokenizer
from tbps_infer.verification.samples import prepare_samples, synthetic_samples

__all__ = ["Peak", "PeakTask", "measure_peak", "peak_resident_bytes"]


@dataclass(frozen=True)
class PeakTask:
    """What the process does."""

    bundle: str
    reference: str | None
    branch: Branch
    choice: Choice
    batch: int
    length: int | None
    threads: int
    memory_kind: MemoryKind | None = None


@dataclass(frozen=True)
class Peak:
    """What it took.

    Attributes:
        host_bytes: Greatest resident memory, Python and libraries included.
        idle_bytes: Resident memory before the model was opened.
        device_bytes: Memory of the GPU that was in use at the end and not before; None on the CPU, or where no
            package tells.
        batch: Items of the run.
        length: Tokens of each caption.
    """

    host_bytes: int
    idle_bytes: int
    device_bytes: int | None
    batch: int
    length: int | None


def measure_peak(task: PeakTask) -> Peak:
    """Run a task in a process of its own. Raises BenchmarkError with its last words when it fails."""
    command = [sys.executable, "-m", "tbps_infer.benchmarks.peak_memory", json.dumps(asdict(task))]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise BenchmarkError(
            f"The process that measures the peak memory of {task.choice.label} failed: {last}.",
            "Leave it out: --no-peak-memory.",
        )
    return Peak(**json.loads(done.stdout.splitlines()[-1]))


def peak_resident_bytes(root: Path = Path("/"), field: str = "VmHWM") -> int:
    """This process's greatest resident memory, or with ``VmRSS`` what is resident now.

    Not `resource.getrusage`: its figure starts from that of the process that started this one.
    """
    for line in (root / "proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return 1024 * int(value.split()[0])
    raise BenchmarkError("This system does not tell a process's peak memory.", "Leave it out: --no-peak-memory.")


def _device_free(choice: Choice, kind: MemoryKind | None) -> int | None:
    device = Device.parse(choice.device)
    gpu = None if device.kind == "cpu" else find_gpu(device.index, kind)
    return None if gpu is None else gpu.free_bytes


def _run(task: PeakTask) -> Peak:
    reference = None if task.reference is None else Path(task.reference)
    free = _device_free(task.choice, task.memory_kind)
    idle = peak_resident_bytes(field="VmRSS")
    # An arm of PyTorch needs the checkpoint, any other the bundle alone.
    with_reference = task.choice.way in ("torch", "torch-compile")
    models = Models.open(Path(task.bundle), reference if with_reference else None, task.threads, task.memory_kind)
    samples = prepare_samples(
        synthetic_samples(), models.bundle.model.preprocessing, Tokenizer.from_bundle(models.bundle)
    )
    runner, run = open_choice(task.choice, models, task.branch)
    feeds = (
        samples.image_batch(0, task.batch) if task.length is None else samples.text_batch(0, task.batch, task.length)
    )
    for _ in range(2):
        run(feeds)
    after = _device_free(task.choice, task.memory_kind)
    used = None if free is None or after is None else max(free - after, 0)
    runner.close()
    return Peak(peak_resident_bytes(), idle, used, task.batch, task.length)


def _task(values: Mapping[str, Any]) -> PeakTask:
    return PeakTask(**{**values, "choice": Choice(**values["choice"])})


if __name__ == "__main__":
    print(json.dumps(asdict(_run(_task(json.loads(sys.argv[1]))))))

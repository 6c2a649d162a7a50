"""Which backends, devices and precisions can be timed here, and each opened as a runner that times its stages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from tbps_infer.bundle import Bundle
from tbps_infer.devices import Device, MemoryKind
from tbps_infer.errors import BackendError, UsageError
from tbps_infer.model_facts import PRECISIONS, Branch, Precision
from tbps_infer.runners import BackendName, Runner, RunOptions, open_model, open_runner
from tbps_infer.runners.protocol import DeviceTimes, Feeds
from tbps_infer.tensorrt.flavours import FLAVOURS, FlavourName

if TYPE_CHECKING:
    from tbps_infer.families.table import SourceModel

__all__ = ["WAYS", "Choice", "Models", "TimedRun", "Way", "list_choices", "open_choice"]

Way = Literal["torch", "torch-compile", "onnxruntime", FlavourName]
WAYS: tuple[Way, ...] = get_args(Way)

TimedRun = Callable[[Feeds], dict[str, float]]


@dataclass(frozen=True)
class Choice:
    """One way to run a model.

    Attributes:
        way: The backend; torch counts twice, eager and compiled.
        device: ``cpu``, ``cuda:0`` …
        precision: Of weights and most arithmetic.
        cuda_graphs: Whether runs are launched as CUDA graphs; None where that is not a choice.
    """

    way: Way
    device: str
    precision: Precision
    cuda_graphs: bool | None = None

    @property
    def label(self) -> str:
        """For tables and names: ``tensorrt cuda:0 fp16 graphs``."""
        graphs = {None: "", True: " graphs", False: " no graphs"}[self.cuda_graphs]
        return f"{self.way} {self.device} {self.precision}{graphs}"


@dataclass(frozen=True)
class Models:
    """What is timed.

    Attributes:
        bundle: Opened.
        reference: The checkpoint that it was exported from, loaded; None when none was given.
        threads: On the CPU, of one operator.
        memory: The package that calls CUDA for engines; as `RunOptions` has it.
    """

    bundle: Bundle
    reference: SourceModel | None
    threads: int
    memory: MemoryKind | None = None

    @classmethod
    def open(cls, bundle: Path, reference: Path | None, threads: int, memory: MemoryKind | None = None) -> Models:
        """Open both.

        Raises:
            UsageError: The reference is no checkpoint, or not the one that the bundle was exported from.
            BundleError, CheckpointError, BackendError: As `tbps_infer.runners.open_model`.
        """
        opened = open_model(bundle, RunOptions())
        source = None if reference is None else open_model(reference, RunOptions("torch"))
        assert isinstance(opened, Bundle) and not isinstance(source, Bundle)
        if source is not None and source.facts.fingerprint != opened.model.fingerprint:
            raise UsageError(
                f"{bundle} was not exported from {reference}: their fingerprints are {opened.model.fingerprint[:12]} "
                f"and {source.facts.fingerprint[:12]}.",
                "Give the checkpoint that tbps export was given.",
            )
        return cls(opened, source, threads, memory)


def list_choices(
    devices: Sequence[str], ways: Sequence[Way] = WAYS, precisions: Sequence[Precision] = PRECISIONS
) -> Iterator[Choice]:
    """Every combination that makes sense; whether it is to be had here shows when it is opened."""
    for name in devices:
        device = Device.parse(name)
        for way in ways:
            if way in FLAVOURS and device.kind == "cpu":
                continue
            graphs: tuple[bool | None, ...] = (True, False) if way in FLAVOURS else (None,)
            for precision in precisions:
                yield from (Choice(way, str(device), precision, flag) for flag in graphs)


def open_choice(choice: Choice, models: Models, branch: Branch) -> tuple[Runner, TimedRun]:
    """Open one branch.

    Returns:
        A runner, to be closed by the caller, and a function that runs it once and returns the milliseconds of
        ``host_to_device_ms``, ``compute_ms`` and ``device_to_host_ms`` on a device; none on the CPU.

    Raises:
        BackendError: It is not to be had here; the sentence says why.
    """
    runner: Any  # with `run_timed`, which every one of these has and the protocol does not ask for
    if choice.way in ("torch", "torch-compile"):
        runner = _open_torch(choice, models, branch)
    elif choice.way in FLAVOURS:
        from tbps_infer.tensorrt.runner import open_engines

        options = RunOptions(cast(FlavourName, choice.way), choice.device, choice.precision, memory=models.memory)
        runner = open_engines(models.bundle, branch, options, cuda_graphs=choice.cuda_graphs)
    else:
        options = RunOptions(cast(BackendName, choice.way), choice.device, choice.precision, models.threads)
        runner = open_runner(models.bundle, branch, options)
    return runner, lambda feeds: _parts(runner.run_timed(feeds)[1])


def _open_torch(choice: Choice, models: Models, branch: Branch) -> Any:
    if models.reference is None:
        raise BackendError("No checkpoint was given to run in PyTorch.", "Give it: --reference CHECKPOINT.")
    from tbps_infer.benchmarks.torch_arm import TorchArm

    options = RunOptions("torch", choice.device, choice.precision, models.threads)
    return TorchArm(models.reference, branch, options, compiled=choice.way == "torch-compile")


def _parts(times: DeviceTimes | None) -> dict[str, float]:
    return {} if times is None else asdict(times)

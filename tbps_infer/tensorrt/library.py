"""One TensorRT module, checked for what this project uses, whose quiet failures become exceptions.

Tried on TensorRT for RTX 1.7: a network made with an unknown flag, a build and a deserialisation that fail all answer
None; an optimisation profile out of order answers -1; some settings are accepted and not kept; and a parser on a
network with an error recorder crashes the process when it is freed, so recorders are attached after parsing.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from tbps_infer.errors import BackendError, UsageError
from tbps_infer.tensorrt.flavours import FLAVOURS, Flavour
from tbps_infer.tensorrt.interruption import held_back
from tbps_infer.tensorrt.journal import Journal, attachments

__all__ = ["OPTIONAL_API", "REQUIRED_API", "Library", "open_library"]

REQUIRED_API: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "Builder": (
            "build_serialized_network",
            "create_builder_config",
            "create_network",
            "create_optimization_profile",
            "error_recorder",
        ),
        "BuilderFlag": ("TF32",),
        "DataType": ("BOOL", "FLOAT", "HALF", "INT32", "INT64", "INT8", "UINT8"),
        "EngineInspector": ("execution_context", "get_engine_information"),
        "ExecutionContextAllocationStrategy": ("USER_MANAGED",),
        "IBuilderConfig": (
            "add_optimization_profile",
            "builder_optimization_level",
            "clear_flag",
            "create_timing_cache",
            "get_flag",
            "get_memory_pool_limit",
            "get_timing_cache",
            "profiling_verbosity",
            "progress_monitor",
            "set_memory_pool_limit",
            "set_timing_cache",
        ),
        "ICudaEngine": (
            "create_engine_inspector",
            "create_execution_context",
            "device_memory_size_v2",
            "get_tensor_dtype",
            "get_tensor_mode",
            "get_tensor_name",
            "get_tensor_profile_shape",
            "get_tensor_shape",
            "num_io_tensors",
            "num_optimization_profiles",
        ),
        "IErrorRecorder": (
            "clear",
            "get_error_code",
            "get_error_desc",
            "has_overflowed",
            "num_errors",
            "report_error",
        ),
        "IExecutionContext": (
            "execute_async_v3",
            "get_tensor_shape",
            "infer_shapes",
            "set_device_memory",
            "set_input_shape",
            "set_optimization_profile_async",
            "set_tensor_address",
        ),
        "IHostMemory": ("nbytes",),
        "ILogger": ("log",),
        "INetworkDefinition": ("get_flag", "get_input", "get_output", "num_inputs", "num_layers", "num_outputs"),
        "IOptimizationProfile": ("set_shape",),
        "IProgressMonitor": ("phase_finish", "phase_start", "step_complete"),
        "ITensor": ("dtype", "name", "shape"),
        "ITimingCache": ("serialize",),
        "LayerInformationFormat": ("JSON",),
        "MemoryPoolType": ("WORKSPACE",),
        "NetworkDefinitionCreationFlag": ("STRONGLY_TYPED",),
        "OnnxParser": ("get_error", "num_errors", "parse_from_file"),
        "ParserError": ("desc", "node"),
        "ProfilingVerbosity": ("DETAILED",),
        "Runtime": ("deserialize_cuda_engine", "error_recorder"),
        "TensorIOMode": ("INPUT", "OUTPUT"),
    }
)
"""Every class, and every member of it, that this project uses unconditionally: in 10.3, 10.16, 11.4 and RTX 1.7."""

OPTIONAL_API: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "ComputeCapability": ("SM75", "SM80", "SM86", "SM89", "SM120", "SM121"),
        "IBuilderConfig": ("num_compute_capabilities", "set_compute_capability"),
        "CudaGraphStrategy": ("WHOLE_GRAPH_CAPTURE",),
        "IRuntimeCache": ("deserialize", "serialize"),
        "IRuntimeConfig": ("create_runtime_cache", "cuda_graph_strategy", "set_runtime_cache"),
    }
)
"""What is used where it is there: TensorRT for RTX alone has it."""

_DTYPES = {
    "BOOL": np.dtype(np.bool_),
    "FLOAT": np.dtype(np.float32),
    "HALF": np.dtype(np.float16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "INT8": np.dtype(np.int8),
    "UINT8": np.dtype(np.uint8),
}

_LIBRARIES_HINT = (
    "Check with nvidia-smi that the driver runs, and that TensorRT's libraries are of the module's version."
)


class Library:
    """A TensorRT module with its logger, error recorder and journal.

    There is one for each module in a process (`open_library`): TensorRT keeps the first logger that it is given, and
    a recorder must outlive all that it was attached to.

    Attributes:
        module: The Python module.
        flavour: Which product it is.
        version: Of the module.
        journal: What it said since the last operation began.
        logger, recorder: The module's, for the objects that take one.
    """

    def __init__(self, module: Any, flavour: Flavour) -> None:
        self.module = module
        self.flavour = flavour
        self.version = str(module.__version__)
        self.journal = Journal()
        missing = missing_api(module)
        if missing:
            raise BackendError(
                f"{self} lacks {', '.join(missing)}.",
                "Install TensorRT 10.3 or later, or TensorRT for RTX 1.7 or later.",
            )
        self.logger, self.recorder = attachments(module, self.journal)

    def __str__(self) -> str:
        return f"{self.flavour.name} {self.version}"

    def has(self, owner: str, member: str) -> bool:
        """Whether a class or enumeration of the module has a member."""
        return hasattr(getattr(self.module, owner, None), member)

    @property
    def several_profiles(self) -> bool:
        """Whether an engine may have several optimization profiles."""
        major, minor = map(int, self.version.split(".")[:2])
        return (major, minor) >= self.flavour.several_profiles_from

    def begin(self) -> None:
        """Forget what was said before, ahead of an operation."""
        self.journal.clear()
        self.recorder.clear()

    def failed(self, what: str, hint: str = "") -> BackendError:
        """An error that says what failed and what TensorRT said about it."""
        return BackendError(f"{self} could not {what}: {self.journal.text()}.", hint)

    def create_builder(self) -> Any:
        """A builder. Raises BackendError, for one where the libraries behind the module do not load."""
        return self._create("Builder")

    def create_runtime(self) -> Any:
        """A runtime with the recorder attached. Raises BackendError."""
        runtime = self._create("Runtime")
        runtime.error_recorder = self.recorder
        return runtime

    def deserialize(self, runtime: Any, plan: Any, name: str) -> Any:
        """An engine from a plan's bytes. Raises BackendError with TensorRT's reason."""
        self.begin()
        with held_back():
            engine = runtime.deserialize_cuda_engine(plan)
        return self.made(
            engine, f"load the engine {name}", "Build it again on this machine: tbps build BUNDLE --rebuild."
        )

    def made(self, value: Any, what: str, hint: str = "") -> Any:
        """The value, unless it is None or False; else raises BackendError."""
        if value is None or value is False:
            raise self.failed(what, hint)
        return value

    def dtype(self, kind: Any, name: str) -> np.dtype[Any]:
        """The numpy type of a tensor's data type. Raises BackendError when numpy has none."""
        found = _DTYPES.get(kind.name)
        if found is None:
            raise BackendError(
                f"The tensor {name} is {kind.name}, which is not supported.", "Export the model again."
            )
        return found

    def _create(self, kind: str) -> Any:
        self.begin()
        try:
            created = getattr(self.module, kind)(self.logger)
        except (TypeError, RuntimeError) as error:
            reason = self.journal.text() if self.journal.errors else str(error)
            raise BackendError(f"{self} makes no {kind.lower()}: {reason}.", _LIBRARIES_HINT) from error
        return self.made(created, f"make a {kind.lower()}")


def missing_api(module: Any) -> list[str]:
    """What `REQUIRED_API` names and a module does not have, as ``Class.member``."""
    return [
        f"{owner}.{member}"
        for owner, members in REQUIRED_API.items()
        for member in members
        if not hasattr(getattr(module, owner, None), member)
    ]


@functools.cache
def open_library(name: str) -> Library:
    """The library of a flavour, imported at the first call.

    Raises:
        UsageError: The flavour is not known.
        BackendError: It is not installed, does not load, or lacks something that this project uses.
    """
    if name not in FLAVOURS:
        raise UsageError(f"The TensorRT flavour {name!r} is not known.", f"Give one of {', '.join(FLAVOURS)}.")
    flavour = FLAVOURS[name]
    try:
        module = importlib.import_module(flavour.module)
    except (ImportError, OSError) as error:  # OSError: a library behind the module
        raise BackendError(f"The backend {flavour.name} cannot be imported: {error}.", flavour.install) from error
    return Library(module, flavour)

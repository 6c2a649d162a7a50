"""Runs a graph with ONNX Runtime, on the CPU or a CUDA device.

ONNX Runtime answers a device it cannot serve with a session on the CPU and no exception, leaves single nodes that
have no kernel for a GPU to the CPU, and computes FP32 graphs on recent GPUs in TF32. All three are refused here: the
provider and the nodes' places are read back, and TF32 is off. Its own setting that forbids nodes on the CPU,
``session.disable_cpu_ep_fallback``, does not help: the CUDA provider leaves the arithmetic of shapes to the CPU on
purpose, a few integers in every graph with two free axes, and the setting refuses such graphs.

The packages ``onnxruntime`` and ``onnxruntime-gpu`` own the same files. With both installed a CUDA device is refused,
because which of them runs is an accident of the order of installation; the CPU is served, because either gives the
CPU provider that was asked for.

Its fast INT8 products multiply uint8 with int8. x86 processors without VNNI add pairs of such products up in 16 bits,
which saturate: other embeddings, and no word about it. It can turn the weights to uint8 when it loads a graph, whose
products are exact everywhere and slower.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import platform
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_infer.cores import usable_cores
from tbps_infer.devices import Device, installed_versions
from tbps_infer.errors import BackendError, FeedError
from tbps_infer.runners.buckets import fill_rows, free_bucket, rows_of
from tbps_infer.runners.options import RunOptions
from tbps_infer.runners.protocol import DeviceTimes, Feeds, SerialRunner, TensorSpec, blank_feeds, check_feeds

__all__ = ["OnnxRuntimeRunner", "nodes_on_cpu", "open_session", "products_saturate"]

_logger = logging.getLogger(__name__)

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_EXTRAS = {"cpu": "cpu", "cuda": "gpu"}
_ERRORS_ONLY, _FATAL_ONLY = 3, 4
_ALLOW_SPINNING = "0"
"""Whether threads wait in a loop, as ONNX Runtime lets them: it takes a core from whoever opens a session, and for
some 12 ms after each run from a search and from decoding (`python -m tbps_infer.benchmarks.studies.query`)."""
_CUDA_CHOICES = {
    # FP32 means FP32: ONNX Runtime's default would round products to TF32's 10 bits.
    "use_tf32": "0",
    # The default tries every algorithm for every new shape, which takes hundreds of milliseconds each.
    "cudnn_conv_algo_search": "HEURISTIC",
    # The default doubles the arena at each step, beyond what a small device has.
    "arena_extend_strategy": "kSameAsRequested",
}
_SHAPE_ARITHMETIC = frozenset(
    {"Shape", "Size", "Concat", "Gather", "Slice", "Squeeze", "Unsqueeze", "Cast", "Add", "Sub", "Mul", "Div"}
)
_X86 = frozenset({"x86_64", "amd64", "i386", "i686"})
_VNNI = re.compile(r"\b(avx512_vnni|avx_vnni)\b")

_DTYPES: dict[str, np.dtype[Any]] = {
    "tensor(uint8)": np.dtype(np.uint8),
    "tensor(int8)": np.dtype(np.int8),
    "tensor(int32)": np.dtype(np.int32),
    "tensor(int64)": np.dtype(np.int64),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(float)": np.dtype(np.float32),
    "tensor(double)": np.dtype(np.float64),
    "tensor(bool)": np.dtype(np.bool_),
}


class OnnxRuntimeRunner(SerialRunner):
    """One graph in an ONNX Runtime session; see `tbps_infer.runners.protocol.Runner`.

    On a CUDA device a batch is filled up to a bucket: each new size makes cuDNN choose its algorithms and the arena
    grow.

    Args:
        graph: An ONNX file, its external data beside it.
        options: Device and threads. The precision is the graph's own; `tbps_infer.runners.open_runner` picks the
            graph that has it.

    Attributes:
        inputs, outputs: The graph's.
        description: Version, provider and threads as the session says.

    Raises:
        BackendError: ONNX Runtime or the device's provider is not installed or does not start, or the graph
            cannot be loaded.
    """

    def __init__(self, graph: Path, options: RunOptions) -> None:
        self._device = Device.parse(options.device)
        ort, session = open_session(graph, self._device, options.threads)
        self._session: Any = session
        self.inputs = tuple(_spec(node) for node in session.get_inputs())
        self.outputs = tuple(_spec(node) for node in session.get_outputs())
        self.description = (
            f"onnxruntime {ort.__version__}, {session.get_providers()[0]} on {self._device}, {options.precision}, "
            f"{session.get_session_options().intra_op_num_threads} threads"
        )

    def run(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        """Run the graph once.

        Raises:
            FeedError: The arrays do not fit `inputs`, or the runner is closed.
            BackendError: ONNX Runtime failed, out of memory for one.
        """
        return self.run_timed(feeds)[0]

    def run_timed(self, feeds: Feeds) -> tuple[dict[str, NDArray[Any]], DeviceTimes | None]:
        """Run the graph once and tell the times of copies and compute, each waited for; None on the CPU.

        Raises:
            As `run`.
        """
        if self._session is None:
            raise FeedError("the runner is closed")
        check_feeds(self.inputs, feeds)
        names = [spec.name for spec in self.outputs]
        times = None
        try:
            if self._device.kind == "cpu":
                arrays = self._session.run(names, dict(feeds))
            else:
                rows = rows_of(feeds)
                arrays, times = run_bound(self._session, names, fill_rows(feeds, free_bucket(rows)), self._device)
                arrays = [array[:rows] for array in arrays]
        except Exception as error:  # ONNX Runtime's exceptions have no common base of their own
            raise BackendError(
                f"ONNX Runtime failed on {self._device}: {_first_line(error)}.",
                "If it is short of memory, choose a smaller batch size.",
            ) from error
        return dict(zip(names, arrays, strict=True)), times

    def warm(self, rows: int, length: int) -> None:
        """Run one item, and on a CUDA device each bucket up to ``rows``. Raises as `run`."""
        buckets = {1} if self._device.kind == "cpu" else {free_bucket(size) for size in range(1, rows + 1)}
        for bucket in sorted(buckets):
            self.run(blank_feeds(self.inputs, bucket, length))

    def close(self) -> None:
        """Let the session go."""
        self._session = None


def open_session(graph: Path, device: Device, threads: int | None = None) -> tuple[Any, Any]:
    """The ``onnxruntime`` module, and a session of a graph that runs on this device and no other.

    Raises:
        BackendError: As `OnnxRuntimeRunner`.
    """
    ort = _import_onnxruntime(device)
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = threads or usable_cores()
    settings.inter_op_num_threads = 1  # one operator at a time: these graphs are chains
    settings.log_severity_level = _ERRORS_ONLY
    if device.kind == "cpu":
        settings.add_session_config_entry("session.intra_op.allow_spinning", _ALLOW_SPINNING)
        if products_saturate():
            settings.add_session_config_entry("session.x64quantprecision", "1")  # of INT8 graphs: exact before fast
    if device.kind == "cuda":
        # The process's own logger calls a plan that cuDNN cannot make an error and then takes another, for each
        # convolution and shape. What goes wrong is raised, and where the nodes run is read back.
        ort.set_default_logger_severity(_FATAL_ONLY)
        settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")  # for nodes_on_cpu
    return ort, _open_session(ort, graph, settings, device)


def nodes_on_cpu(session: Any) -> frozenset[str] | None:
    """Kinds of a session's nodes that the CPU computes, the arithmetic of shapes left out.

    Args:
        session: Opened with ``session.record_ep_graph_assignment_info``.

    Returns:
        The operators' names; None before ONNX Runtime 1.24, which does not say.
    """
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return None
    places = session.get_provider_graph_assignment_info()
    kinds = {node.op_type for place in places if place.ep_name == _PROVIDERS["cpu"] for node in place.get_nodes()}
    return frozenset(kinds - _SHAPE_ARITHMETIC)


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


def run_bound(session: Any, names: list[str], feeds: Feeds, device: Device) -> tuple[list[NDArray[Any]], DeviceTimes]:
    """Run with inputs copied to the device once, and outputs left on it until they are fetched together.

    Args:
        session: An ``onnxruntime.InferenceSession``.
        names: The outputs wanted.
        feeds: Arrays by input name.
        device: Where the outputs are made.

    Returns:
        The outputs, in the order of ``names``, and the time of each stage, from one wait for the device to the next.
    """
    marks = [time.perf_counter()]
    binding = session.io_binding()
    for name, array in feeds.items():
        binding.bind_cpu_input(name, np.ascontiguousarray(array))
    for name in names:
        binding.bind_output(name, device.kind, device.index)
    binding.synchronize_inputs()
    marks.append(time.perf_counter())
    session.run_with_iobinding(binding)
    binding.synchronize_outputs()
    marks.append(time.perf_counter())
    arrays = list(binding.copy_outputs_to_cpu())
    marks.append(time.perf_counter())
    return arrays, DeviceTimes(*(1e3 * (after - before) for before, after in itertools.pairwise(marks)))


def _import_onnxruntime(device: Device) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendError(
            f"The backend onnxruntime cannot be imported: {_first_line(error)}.",
            f'Install it: pip install "tbps-infer[{_EXTRAS[device.kind]}]".',
        ) from error
    if device.kind == "cpu":
        return onnxruntime
    repair = 'pip uninstall -y onnxruntime onnxruntime-gpu && pip install "tbps-infer[gpu]"'
    wheels = installed_versions(("onnxruntime", "onnxruntime-gpu"))
    if len(wheels) > 1:
        raise BackendError(
            f"The packages {' and '.join(wheels)} are both installed, and they overwrite each other's files.",
            f"Keep the one for CUDA: {repair}.",
        )
    if _PROVIDERS["cuda"] not in onnxruntime.get_available_providers():
        raise BackendError(
            f"The ONNX Runtime {onnxruntime.__version__} installed here has no {_PROVIDERS['cuda']}; it has "
            f"{', '.join(onnxruntime.get_available_providers())}.",
            f"Install onnxruntime-gpu in its place: {repair}.",
        )
    return onnxruntime


def _open_session(ort: Any, graph: Path, settings: Any, device: Device) -> Any:
    provider = _PROVIDERS[device.kind]
    complaints = io.StringIO()
    choices: dict[str, str] = {}
    if device.kind == "cuda":
        choices = {"device_id": str(device.index), **_CUDA_CHOICES}
        if hasattr(
            ort, "preload_dlls"
        ):  # since 1.21: finds CUDA and cuDNN in pip's packages, and prints what it misses
            with contextlib.redirect_stdout(complaints):
                ort.preload_dlls()
    try:
        session = ort.InferenceSession(str(graph), settings, providers=[(provider, choices)], enable_fallback=0)
        session.disable_fallback()
    except Exception as error:  # as in run()
        raise BackendError(
            f"ONNX Runtime {ort.__version__} cannot load {graph} on {device}: {_first_line(error)}.",
            "Export the model again, or install the newest onnxruntime."
            if device.kind == "cpu"
            else "Check with nvidia-smi that the device is there and has free memory.",
        ) from error
    used = session.get_providers()[0]
    if used != provider:
        reason = " ".join(complaints.getvalue().split())
        raise BackendError(
            f"ONNX Runtime was asked for {provider} and runs on {used}. {reason}".rstrip(),
            'Install the CUDA libraries that it needs: pip install "onnxruntime-gpu[cuda,cudnn]".',
        )
    if device.kind == "cuda":
        _refuse_cpu_nodes(ort, session, graph, device)
    return session


def _refuse_cpu_nodes(ort: Any, session: Any, graph: Path, device: Device) -> None:
    kinds = nodes_on_cpu(session)
    if kinds is None:
        _logger.warning(
            "ONNX Runtime %s does not tell whether it computes parts of %s on the CPU; 1.24 does.",
            ort.__version__,
            graph.name,
        )
    elif kinds:
        raise BackendError(
            f"ONNX Runtime {ort.__version__} would compute {', '.join(sorted(kinds))} of {graph} on the CPU, and "
            f"{device} was asked for.",
            "Install the newest onnxruntime-gpu, or choose --device cpu.",
        )


def _spec(node: Any) -> TensorSpec:
    dtype = _DTYPES.get(node.type)
    if dtype is None:
        raise BackendError(f"The graph's {node.name} is {node.type}, which is not supported.", "Export it again.")
    # An axis without a name is free on its own: it gets one that no other axis has.
    shape = tuple(f"{node.name}.{axis}" if size is None else size for axis, size in enumerate(node.shape))
    return TensorSpec(node.name, dtype, shape)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")

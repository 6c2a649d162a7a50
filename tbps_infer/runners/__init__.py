"""Inference backends behind one protocol; each backend's packages are imported when it is opened.

`open_runner` opens one branch of a model. A backend, device or precision that cannot be had is a BackendError that
says what to install, and never replaced by another one.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tbps_infer.bundle import Bundle, is_bundle
from tbps_infer.devices import BACKENDS, BackendName, Device
from tbps_infer.errors import BackendError, UsageError
from tbps_infer.model_facts import Branch
from tbps_infer.reference.file_kinds import TENSOR_SUFFIXES
from tbps_infer.runners.options import RunOptions
from tbps_infer.runners.protocol import Feeds, Runner, TensorSpec, check_feeds
from tbps_infer.tensorrt.flavours import FLAVOURS

if TYPE_CHECKING:
    from tbps_infer.families.options import LoadOptions
    from tbps_infer.families.table import SourceModel

__all__ = [
    "BACKENDS",
    "BackendName",
    "Feeds",
    "RunOptions",
    "Runner",
    "TensorSpec",
    "check_feeds",
    "open_model",
    "open_runner",
]

_TORCH_PACKAGES = frozenset({"torch", "transformers", "safetensors", "yaml"})


def open_runner(model: Bundle | SourceModel | Path, branch: Branch, options: RunOptions) -> Runner:
    """Load one branch of a model, ready to run.

    Args:
        model: What `open_model` gives, or the path that it takes.
        branch: ``image`` or ``text``.
        options: Backend, device, precision and threads.

    Raises:
        UsageError: The backend does not run this kind of model.
        BundleError: The bundle's graph is missing or was altered.
        CheckpointError: The checkpoint cannot be read.
        BackendError: The backend, device or precision is not to be had on this machine.
    """
    if isinstance(model, Path):
        model = open_model(model, options)
    if isinstance(model, Bundle):
        _refuse_other_kind(model.path, "bundle", options)
        if options.backend in FLAVOURS:
            from tbps_infer.tensorrt.runner import open_engines

            return open_engines(model, branch, options)
        from tbps_infer.runners.onnxruntime_runner import OnnxRuntimeRunner

        return OnnxRuntimeRunner(_graph(model, branch, options), options)
    _refuse_other_kind(model.path, "checkpoint", options)
    from tbps_infer.runners.torch_runner import TorchRunner

    return TorchRunner(model, branch, options)


def open_model(path: Path, options: RunOptions, load: LoadOptions | None = None) -> Bundle | SourceModel:
    """Open what a path holds, if the chosen backend runs it: facts of a bundle, or a whole checkpoint.

    Args:
        path: A bundle's folder, or a checkpoint's folder or file.
        options: The backend.
        load: What there is to say about a checkpoint.

    Raises:
        UsageError: It is neither a bundle nor a checkpoint, the backend does not run this kind of model, or what is
            said means nothing to it.
        BundleError: The bundle is damaged.
        CheckpointError: The checkpoint cannot be read.
        BackendError: PyTorch or a package beside it is not installed.
    """
    if is_bundle(path):
        _refuse_other_kind(path, "bundle", options)
        if load is not None:
            load.refuse_all(path, "bundle")
        return Bundle.open(path)
    if not _holds_tensors(path):
        problem = "is neither a bundle nor a checkpoint" if path.exists() else "does not exist"
        raise UsageError(
            f"{path} {problem}.",
            "Give a folder that tbps export made, or a checkpoint (a folder with a .safetensors file, or the file).",
        )
    _refuse_other_kind(path, "checkpoint", options)
    return _load_checkpoint(path, load)


def _load_checkpoint(path: Path, load: LoadOptions | None) -> SourceModel:
    try:
        from tbps_infer.families.table import load_source
    except ModuleNotFoundError as error:
        if error.name not in _TORCH_PACKAGES:
            raise
        raise BackendError(
            f"The backend torch needs the package {error.name}, which is not installed.",
            'Install it: pip install "tbps-infer[export]".',
        ) from error
    return load_source(None, path, load)


def _refuse_other_kind(path: Path, kind: Literal["bundle", "checkpoint"], options: RunOptions) -> None:
    if kind == "bundle" and options.backend == "torch":
        raise UsageError(
            f"{path} is a bundle, and the backend torch runs checkpoints.",
            "Choose the backend onnxruntime, or give the checkpoint that the bundle was exported from.",
        )
    if kind == "checkpoint" and options.backend != "torch":
        raise UsageError(
            f"{path} is a checkpoint, and the backend {options.backend} runs bundles.",
            "Export it first (tbps export CHECKPOINT -o BUNDLE), or choose the backend torch.",
        )


def _holds_tensors(path: Path) -> bool:
    if path.is_dir():
        return any(file.name.endswith(TENSOR_SUFFIXES) for file in path.iterdir())
    return path.is_file() and path.name.endswith(TENSOR_SUFFIXES)


def _graph(bundle: Bundle, branch: Branch, options: RunOptions) -> Path:
    """The checked graph of a branch in one precision: FP32 is always there, FP16 and INT8 if they were exported.

    Raises:
        BackendError: There is no such graph, or ONNX Runtime would compute it in FP32 on this device.
    """
    bundle.graph_path(branch, options.precision)
    on_cpu = Device.parse(options.device).kind == "cpu"
    if options.precision == "int8" and not on_cpu:
        raise BackendError(
            "ONNX Runtime has no INT8 kernels for a GPU: it would silently compute most of the graph in FP32.",
            "Choose the precision fp16 on the GPU, or --device cpu.",
        )
    if options.precision == "fp16" and on_cpu:
        raise BackendError(
            "ONNX Runtime has no FP16 kernels for the CPU: it would silently compute the graph in FP32.",
            "Choose the precision fp32, or a GPU: --device cuda.",
        )
    return bundle.check_graph(branch, options.precision)

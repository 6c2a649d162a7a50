"""Runs a checkpoint itself, in PyTorch: what graphs and engines are compared with."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from tbps_infer.devices import Device
from tbps_infer.errors import BackendError, FeedError
from tbps_infer.model_facts import Branch
from tbps_infer.runners.options import RunOptions
from tbps_infer.runners.protocol import Feeds, SerialRunner, branch_specs, check_feeds

if TYPE_CHECKING:
    from tbps_infer.families.table import SourceModel

__all__ = ["TorchRunner"]


class TorchRunner(SerialRunner):
    """One branch of a loaded checkpoint; see `tbps_infer.runners.protocol.Runner`.

    Args:
        model: The loaded checkpoint; its branch is moved to the device, and both branches may share tensors.
        branch: ``image`` or ``text``.
        options: Device, precision (``fp32`` alone) and threads; threads are set for the whole process, as PyTorch
            knows no other way.

    Attributes:
        inputs, outputs: As the exported graph's.

    Raises:
        BackendError: The device or precision is not to be had.
    """

    def __init__(self, model: SourceModel, branch: Branch, options: RunOptions) -> None:
        if options.precision != "fp32":
            raise BackendError(
                f"The backend torch computes in fp32, and {options.precision} was asked for.",
                "Choose the precision fp32: this backend is the reference.",
            )
        device = Device.parse(options.device)
        _check_device(device)
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        self._device = torch.device(str(device))
        self._module: Any = model.branch(branch).eval().to(self._device)
        self.inputs, self.outputs = branch_specs(model.facts, branch)

    @property
    def description(self) -> str:
        """Version, device and threads as PyTorch says."""
        name = f" ({torch.cuda.get_device_name(self._device)})" if self._device.type == "cuda" else ""
        return f"torch {torch.__version__}, {self._device}{name}, fp32, {torch.get_num_threads()} threads"

    def run(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        """Run the branch once.

        Raises:
            FeedError: The arrays do not fit `inputs`, or the runner is closed.
            BackendError: PyTorch failed, out of memory for one.
        """
        tensors = self._host_tensors(feeds)
        try:
            with torch.inference_mode(), self._arithmetic():
                embedding = self._module(*(tensor.to(self._device) for tensor in tensors)).float().cpu().numpy()
        except RuntimeError as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise BackendError(
                f"PyTorch failed on {self._device}: {reason}.",
                "If it is short of memory, choose a smaller batch size.",
            ) from error
        return {self.outputs[0].name: embedding}

    def close(self) -> None:
        """Let the model go."""
        self._module = None

    def _host_tensors(self, feeds: Feeds) -> list[torch.Tensor]:
        """The arrays in the inputs' order, not copied yet. Raises FeedError as `run` does."""
        if self._module is None:
            raise FeedError("the runner is closed")
        check_feeds(self.inputs, feeds)
        # PyTorch warns of arrays it could write into and must not; np.require copies those alone.
        return [torch.from_numpy(np.require(feeds[s.name], requirements=["C", "W"])) for s in self.inputs]

    def _arithmetic(self) -> contextlib.AbstractContextManager[Any]:
        """FP32 means FP32: by default cuDNN's convolutions round products to TF32's 10 bits."""
        if self._device.type == "cpu":
            return contextlib.nullcontext()
        cudnn = torch.backends.cudnn
        return cudnn.flags(
            enabled=cudnn.enabled, benchmark=cudnn.benchmark, deterministic=cudnn.deterministic, allow_tf32=False
        )


def _check_device(device: Device) -> None:
    if device.kind == "cpu":
        return
    if not torch.cuda.is_available():
        raise BackendError(
            f"PyTorch {torch.__version__} finds no CUDA device, and {device} was asked for.",
            "Choose the device cpu, or install a PyTorch build for CUDA.",
        )
    if device.index >= torch.cuda.device_count():
        raise BackendError(
            f"There is no {device}: PyTorch finds {torch.cuda.device_count()} CUDA devices.",
            "They count from cuda:0.",
        )

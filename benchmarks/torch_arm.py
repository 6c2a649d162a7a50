"""PyTorch as users run it: eager or compiled, FP32 or, on a GPU, FP16 by autocast."""

from __future__ import annotations

import contextlib
import itertools
import shutil
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from numpy.typing import NDArray

from tbps_infer.devices import Device
from tbps_infer.errors import BackendError
from tbps_infer.families.table import SourceModel
from tbps_infer.model_facts import Branch, Precision
from tbps_infer.runners.options import RunOptions
from tbps_infer.runners.protocol import DeviceTimes, Feeds
from tbps_infer.runners.torch_runner import TorchRunner

__all__ = ["TorchArm"]


class TorchArm(TorchRunner):
    """`TorchRunner` in the ways that users choose, and timed. FP32 products are never rounded to TF32.

    Args:
        model: The loaded checkpoint; several arms may share it.
        branch: ``image`` or ``text``.
        options: Device, threads on the CPU, and the precision: ``fp32``, or on CUDA ``fp16`` by autocast.
        compiled: By ``torch.compile`` for shapes that may change, so that each batch size is not compiled anew.

    Raises:
        BackendError: The device, precision or compiler is not available.
    """

    def __init__(self, model: SourceModel, branch: Branch, options: RunOptions, *, compiled: bool) -> None:
        device = Device.parse(options.device)
        _refuse(device, options.precision, compiled)
        threads = options.threads if device.kind == "cpu" else None
        super().__init__(model, branch, replace(options, precision="fp32", threads=threads))
        self._half = options.precision == "fp16"
        if compiled:
            self._module = torch.compile(self._module, dynamic=True)
        self._text = (
            f"torch {torch.__version__} {'compiled' if compiled else 'eager'} on {device}, {options.precision}, "
            f"{torch.get_num_threads()} threads"
        )

    @property
    def description(self) -> str:
        """Version, way, device, precision and threads."""
        return self._text

    def run_timed(self, feeds: Feeds) -> tuple[dict[str, NDArray[Any]], DeviceTimes | None]:
        """Run the branch once and tell the times of copies and compute; None on the CPU."""
        if self._device.type == "cpu":
            return self.run(feeds), None
        tensors = self._host_tensors(feeds)
        marks: list[Any] = [torch.cuda.Event(enable_timing=True) for _ in range(4)]  # type: ignore[no-untyped-call]
        with torch.inference_mode(), self._arithmetic():
            marks[0].record()
            on_device = [tensor.to(self._device) for tensor in tensors]
            marks[1].record()
            result = self._module(*on_device).float()
            marks[2].record()
            embedding = result.cpu().numpy()
            marks[3].record()
            marks[3].synchronize()
        times = DeviceTimes(*(float(before.elapsed_time(after)) for before, after in itertools.pairwise(marks)))
        return {self.outputs[0].name: embedding}, times

    @contextlib.contextmanager
    def _arithmetic(self) -> Iterator[None]:
        if self._device.type == "cpu":
            yield
            return
        matmul = torch.backends.cuda.matmul
        before, matmul.allow_tf32 = matmul.allow_tf32, False
        try:
            with super()._arithmetic(), torch.autocast("cuda", torch.float16, enabled=self._half):
                yield
        finally:
            matmul.allow_tf32 = before


def _refuse(device: Device, precision: Precision, compiled: bool) -> None:
    if precision == "int8":
        raise BackendError("PyTorch runs the checkpoint's own weights, which are not INT8.", "Choose fp32.")
    if precision == "fp16" and device.kind == "cpu":
        raise BackendError("PyTorch's FP16 is slower than FP32 on a CPU, and not offered here.", "Choose fp32.")
    if compiled and device.kind == "cpu" and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        raise BackendError("torch.compile needs a C++ compiler, and there is none.", "Install g++.")

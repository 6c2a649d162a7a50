"""Which of the two ways a GPU searches by: a kernel of ours, or graphs that ONNX Runtime runs."""

from __future__ import annotations

import logging
from typing import Protocol

from tbps_infer.devices import Device, SearchBackend
from tbps_infer.errors import BackendError
from tbps_infer.gallery.search.device import DeviceScan
from tbps_infer.gallery.search.kernel import KernelScan
from tbps_infer.gallery.search.scan import FirstStage
from tbps_infer.gallery.vectors import StoredVectors

__all__ = ["DeviceStage", "open_device_stage"]

log = logging.getLogger(__name__)


class DeviceStage(FirstStage, Protocol):
    """A `FirstStage` on a device."""

    @property
    def description(self) -> str:
        """What searches, and where."""

    def close(self) -> None:
        """Give the device's memory back."""


def open_device_stage(vectors: StoredVectors, device: Device, backend: SearchBackend = "auto") -> DeviceStage:
    """All stored vectors on a device.

    Args:
        vectors: What is searched.
        device: Where.
        backend: ``kernel``, ``onnxruntime``, or ``auto``: the kernel where it can run, else ONNX Runtime; which one
            it is, and why, is in the description and in a warning.

    Raises:
        BackendError: The way that was asked for, or with ``auto`` both, cannot be used here.
    """
    stage = _open(vectors, device, backend)
    log.info("The search runs by %s", stage.description)
    return stage


def _open(vectors: StoredVectors, device: Device, backend: SearchBackend) -> DeviceStage:
    if backend == "kernel":
        return KernelScan(vectors, device)
    if backend == "onnxruntime":
        return DeviceScan(vectors, device)
    try:
        return KernelScan(vectors, device)
    except BackendError as no_kernel:
        try:
            stage = DeviceScan(vectors, device)
        except BackendError as error:
            raise BackendError(f"{no_kernel.message} {error.message}", error.hint) from error
        log.warning("The search on %s runs by ONNX Runtime, not by the kernel: %s", device, no_kernel.message)
        stage.description += f", because: {no_kernel.message}"
        return stage

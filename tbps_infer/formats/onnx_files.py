"""ONNX graphs, as `onnx` reads them; what runs them reads them by itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tbps_infer.errors import BundleError

if TYPE_CHECKING:
    import onnx

__all__ = ["read_onnx"]


def read_onnx(file: Path, *, external_data: bool = True) -> onnx.ModelProto:
    """Read a graph, with the weights that lie beside it unless they are not wanted.

    Raises:
        BundleError: It cannot be read, or weights that it names are not there.
    """
    import onnx

    try:
        return onnx.load(file, load_external_data=external_data)
    except Exception as error:  # protobuf's DecodeError and onnx's own errors have no common base
        raise BundleError(f"{file} is not a readable ONNX graph: {error}.", "Export the bundle again.") from error

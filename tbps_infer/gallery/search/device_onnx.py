"""The ONNX models by which a GPU scans a gallery.

``python -m tbps_infer.gallery.search.device_onnx`` writes them anew.

They are shipped, because a device that searches has ONNX Runtime and no package that makes models. One is there per
type of stored number; `tbps_infer.gallery.search.device` says what goes in and comes out.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from tbps_infer.atomic import write_bytes

if TYPE_CHECKING:
    import onnx

__all__ = ["STORED_TYPES", "scan_onnx", "write_scan_onnx"]

STORED_TYPES = ("float16", "float32", "int8")
_OPSET = 18
_IR_VERSION = 8


def scan_onnx(dtype: str) -> onnx.ModelProto:
    """The model for one of `STORED_TYPES`: scores in FP32, rows that are not wanted left out, the k best.

    Inputs: ``block`` ``[n, dim]``, ``queries`` float32 ``[q, dim]``, ``wanted`` bool ``[n]``, ``ceiling`` float32
    ``[q, 1]``, ``k`` int64 ``[1]``, for int8 also ``scales`` float32 ``[n]``.
    Outputs: ``scores`` float32 and ``rows`` int64 ``[q, k]``, best first, and ``sound``, float32 ``[]``: 1 if no
    wanted score is NaN or above its ceiling.
    """
    import onnx
    from onnx import TensorProto, helper

    stored = {"float16": TensorProto.FLOAT16, "float32": TensorProto.FLOAT, "int8": TensorProto.INT8}[dtype]
    inputs = [
        helper.make_tensor_value_info("block", stored, ["n", "dim"]),
        helper.make_tensor_value_info("queries", TensorProto.FLOAT, ["q", "dim"]),
        helper.make_tensor_value_info("wanted", TensorProto.BOOL, ["n"]),
        helper.make_tensor_value_info("ceiling", TensorProto.FLOAT, ["q", 1]),
        helper.make_tensor_value_info("k", TensorProto.INT64, [1]),
    ]
    nodes = [
        helper.make_node("Cast", ["block"], ["values"], to=TensorProto.FLOAT),
        helper.make_node("Gemm", ["queries", "values"], ["products"], transB=1),
    ]
    products = "products"
    if dtype == "int8":
        inputs.append(helper.make_tensor_value_info("scales", TensorProto.FLOAT, ["n"]))
        nodes.append(helper.make_node("Mul", ["products", "scales"], ["scaled"]))
        products = "scaled"
    nodes += [
        helper.make_node("Where", ["wanted", products, "nothing"], ["masked"]),
        helper.make_node("LessOrEqual", ["masked", "ceiling"], ["below"]),
        helper.make_node("Cast", ["below"], ["below_number"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMin", ["below_number"], ["sound"], keepdims=0),
        helper.make_node("TopK", ["masked", "k"], ["scores", "rows"], axis=1, largest=1, sorted=1),
    ]
    outputs = [
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["q", "kept"]),
        helper.make_tensor_value_info("rows", TensorProto.INT64, ["q", "kept"]),
        helper.make_tensor_value_info("sound", TensorProto.FLOAT, []),
    ]
    nothing = helper.make_tensor("nothing", TensorProto.FLOAT, [], [float("-inf")])
    graph = helper.make_graph(nodes, f"scan_{dtype}", inputs, outputs, [nothing])
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", _OPSET)],
        producer_name="tbps-infer",
        ir_version=_IR_VERSION,
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def write_scan_onnx(folder: Path) -> None:
    """Write ``<type>.onnx`` for every stored type."""
    for dtype in STORED_TYPES:
        write_bytes(folder / f"{dtype}.onnx", scan_onnx(dtype).SerializeToString(deterministic=True))


if __name__ == "__main__":
    write_scan_onnx(Path(str(resources.files("tbps_infer") / "assets" / "scan")))

"""Which product of stored vectors with a batch of queries is the fastest on a processor, by the vectors' width.

::

    python -m tbps_infer.benchmarks.studies.products --dims 512 6656 --queries 64

One thread multiplies blocks as a search does: NumKong whole and with the inner dimension cut into parts whose int32
sums are added, ONNX Runtime's MatMulInteger, and BLAS. Results are compared before anything is timed. Samples go to
standard output as lines of JSON, a table to standard error.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_infer.benchmarks.environment import record_environment
from tbps_infer.benchmarks.measure import Arm, MemoryRecorder, Plan, ProcessorClock, measure, without_parts
from tbps_infer.benchmarks.summary import paired_ratio, summarise
from tbps_infer.gallery.search.multiply import one_blas_thread

__all__ = ["main"]

_BLOCK_BYTES = 4 << 20
_CUTS = (512, 1024, 1664, 3328)

Product = Callable[[], object]


def product_arms(dim: int, queries: int) -> dict[str, Product]:
    """Products of one block in each way, the first two of int8 being exact and equal."""
    import numkong

    rng = np.random.default_rng(0)
    rows = _BLOCK_BYTES // dim
    block = rng.integers(-127, 128, (rows, dim), dtype=np.int8)
    batch = rng.integers(-127, 128, (queries, dim), dtype=np.int8)
    halves, full = block.astype(np.float16), block.astype(np.float32)
    transposed = np.ascontiguousarray(batch.T.astype(np.float32))
    whole = numkong.dots_pack(batch, dtype="int8")
    half = numkong.dots_pack(batch.astype(np.float16), dtype="float16")
    arms: dict[str, Product] = {
        "int8 NumKong": lambda: np.asarray(numkong.dots_packed(block, whole)),
        "float16 NumKong": lambda: np.asarray(numkong.dots_packed(halves, half)),
        "float32 BLAS": lambda: full @ transposed,
        **{f"int8 NumKong, cut at {size}": _cut(block, batch, size) for size in _CUTS if size < dim},
        **_onnx_arms(block, batch),
    }
    wanted = arms["int8 NumKong"]()
    for name, run in arms.items():
        if name.startswith("int8") and not np.array_equal(np.asarray(run()), np.asarray(wanted)):
            print(f"{name} at {dim} numbers is not exact here, and left out.", file=sys.stderr)
            arms = {other: each for other, each in arms.items() if other != name}
    return arms


def _cut(block: NDArray[np.int8], batch: NDArray[np.int8], size: int) -> Product:
    import numkong

    starts = range(0, block.shape[1], size)
    parts = [
        numkong.dots_pack(np.ascontiguousarray(batch[:, start : start + size]), dtype="int8") for start in starts
    ]

    def run() -> NDArray[np.int32]:
        total = np.asarray(numkong.dots_packed(block[:, :size], parts[0]))
        for start, part in zip(starts[1:], parts[1:], strict=True):
            total += np.asarray(numkong.dots_packed(block[:, start : start + size], part))
        return total

    return run


def _onnx_arms(block: NDArray[np.int8], batch: NDArray[np.int8]) -> dict[str, Product]:
    """Unsigned rows and signed or unsigned queries; without VNNI the former saturates on x86."""
    try:
        import onnx
        import onnxruntime
        from onnx import TensorProto, helper
    except ImportError:
        return {}
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1

    def session(kind: int) -> Any:
        inputs = [
            helper.make_tensor_value_info("a", TensorProto.UINT8, ["n", "dim"]),
            helper.make_tensor_value_info("b", kind, ["dim", "q"]),
            helper.make_tensor_value_info("a0", TensorProto.UINT8, []),
            helper.make_tensor_value_info("b0", kind, []),
        ]
        output = helper.make_tensor_value_info("c", TensorProto.INT32, ["n", "q"])
        node = helper.make_node("MatMulInteger", ["a", "b", "a0", "b0"], ["c"])
        graph = helper.make_graph([node], "products", inputs, [output])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
        onnx.checker.check_model(model)
        return onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])

    transposed = np.ascontiguousarray(batch.T)
    rows = np.empty(block.shape, dtype=np.uint8)
    middle = np.array(128, dtype=np.uint8)

    def run(opened: Any, right: NDArray[Any], zero: NDArray[Any]) -> Product:
        def product() -> object:
            np.bitwise_xor(block.view(np.uint8), 0x80, out=rows)
            return opened.run(None, {"a": rows, "b": right, "a0": middle, "b0": zero})[0]

        return product

    return {
        "int8 ONNX Runtime, uint8 x int8": run(session(TensorProto.INT8), transposed, np.array(0, dtype=np.int8)),
        "int8 ONNX Runtime, uint8 x uint8": run(
            session(TensorProto.UINT8), transposed.view(np.uint8) ^ np.uint8(0x80), middle
        ),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--dims", type=int, nargs="+", default=[512, 6656])
    parser.add_argument("--queries", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=25)
    given = parser.parse_args(arguments)
    environment = record_environment()
    print(json.dumps({**environment.stable, **environment.conditions}), file=sys.stderr)
    plan = Plan(samples=given.rounds, least_samples=given.rounds)
    for dim in given.dims:
        recorder = MemoryRecorder()
        arms = product_arms(dim, given.queries)
        with one_blas_thread():
            measure(
                [Arm(name, {}, without_parts(run)) for name, run in arms.items()], recorder, plan, ProcessorClock()
            )
        print(
            f"\n{_BLOCK_BYTES // dim} rows x {dim}, {given.queries} queries, one thread, processor time",
            file=sys.stderr,
        )
        first = recorder.samples_of("int8 NumKong")
        work = 2 * (_BLOCK_BYTES // dim) * dim * given.queries
        for name in arms:
            samples = recorder.samples_of(name)
            for sample in samples:
                print(json.dumps({"dim": dim, "arm": name, "round": sample.round, "ms": round(sample.ms, 4)}))
            ratio, ms = paired_ratio(first, samples), summarise(samples).p50_ms
            assert ratio is not None
            low, high = ratio.interval
            print(
                f"  {name:36} {ms:8.2f} ms  {work / ms / 1e6:7.1f} GOP/s  "
                f"{ratio.median:5.2f} times as fast as the first ({low:.2f} to {high:.2f})",
                file=sys.stderr,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())

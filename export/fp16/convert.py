"""FP32 graph to mixed-precision graph: products in FP16, what FP16 would spoil in FP32, inputs and outputs as before.

The precision is written into the graph and engines are built strongly typed, which is the one way that means the same
from TensorRT 10.3 to 11 and in ONNX Runtime. `tbps_infer.export.fp16.assignment` holds the rules.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from tbps_infer.errors import BackendError, UsageError, VerificationError
from tbps_infer.export.cpu_session import open_session
from tbps_infer.export.fp16.assignment import assign_fp16
from tbps_infer.export.fp16.operators import PRODUCTS
from tbps_infer.export.fp16.ranges import measure_ranges, risky_nodes
from tbps_infer.export.fp16.rewrite import rewrite
from tbps_infer.export.graph_view import GraphView
from tbps_infer.formats.onnx_files import read_onnx
from tbps_infer.runners.protocol import Feeds

__all__ = ["MixedPrecisionOptions", "MixedPrecisionReport", "convert_file", "convert_model"]


@dataclass(frozen=True)
class MixedPrecisionOptions:
    """What stays in FP32 beyond the rules.

    Attributes:
        keep_fp32: Patterns as in a shell (``*``, ``?``, ``[abc]``), matched with case against a node's name and
            operator, the values it gives and the stored tensors it reads. A bias's name stands for its linear layer.
        auto_islands: Measure the activations and keep what comes near FP16's limit.
        fp32_accumulation: Patterns as above, of products that take and give FP16 and are added up in FP32, which
            TensorRT may do in FP16 otherwise. It then fuses fewer attentions.
        threads: Of ONNX Runtime while measuring; 0 for its own choice.
    """

    keep_fp32: tuple[str, ...] = ()
    auto_islands: bool = False
    threads: int = 0
    fp32_accumulation: tuple[str, ...] = ()

    @property
    def asks_for_fp32(self) -> bool:
        """Whether anything is to be FP32 beyond the rules."""
        return bool(self.keep_fp32 or self.auto_islands or self.fp32_accumulation)


@dataclass(frozen=True)
class MixedPrecisionReport:
    """What became of a graph.

    Attributes:
        fp16_nodes: Nodes that compute in FP16, in FP32 sums or not.
        fp32_nodes: The other nodes of the FP32 graph, those without floating-point numbers included.
        casts: Casts added between the two.
        rounded_tensors: Stored tensors that are FP16 now.
        flushed_share: The share of their numbers that FP16 rounds to zero.
        islands: Nodes kept in FP32 by a pattern or a measurement, by name, with the reason.
        largest_activation: The greatest magnitude measured, with its value's name; None when nothing was measured.
        fp32_accumulations: FP16 products that are added up in FP32.
    """

    fp16_nodes: int
    fp32_nodes: int
    casts: int
    rounded_tensors: int
    flushed_share: float
    islands: Mapping[str, str] = field(default_factory=dict)
    largest_activation: tuple[str, float] | None = None
    fp32_accumulations: int = 0

    def to_json(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        return dataclasses.asdict(self)


def convert_model(
    model: Any, options: MixedPrecisionOptions, batches: Iterable[Feeds] = ()
) -> tuple[Any, MixedPrecisionReport]:
    """Convert an FP32 graph in memory.

    Args:
        model: An ``onnx.ModelProto`` with its weights loaded; it is not changed.
        options: What to keep in FP32.
        batches: Real inputs by name, read when the options ask for automatic islands.

    Returns:
        The mixed-precision ``onnx.ModelProto``, and what became of the nodes.

    Raises:
        UsageError: A pattern matches nothing.
        VerificationError: A stored tensor overflows FP16 and nothing keeps its reader in FP32; or the graph is not
            FP32, has control flow, or cannot be run for measuring.
        BackendError: Measuring needs ONNX Runtime, which is not installed.
    """
    view = GraphView.open(model)
    islands = _matching(view, options.keep_fp32)
    ranges: dict[str, float] = {}
    if options.auto_islands:
        ranges = measure_ranges(view, batches, threads=options.threads)
        islands = {**risky_nodes(view, ranges), **islands}
    fp16 = assign_fp16(view, islands)
    widened = fp16 & _matching_products(view, options.fp32_accumulation)
    rewritten = rewrite(view, fp16, widened)
    largest = max(ranges, key=ranges.__getitem__, default=None)
    report = MixedPrecisionReport(
        fp16_nodes=len(fp16),
        fp32_nodes=len(view.nodes) - len(fp16),
        casts=rewritten.casts,
        rounded_tensors=rewritten.rounded,
        flushed_share=rewritten.flushed,
        islands={view.label(number): reason for number, reason in sorted(islands.items())},
        largest_activation=None if largest is None else (largest, ranges[largest]),
        fp32_accumulations=len(widened),
    )
    return rewritten.model, report


def convert_file(
    source: Path, target: Path, options: MixedPrecisionOptions, batches: Iterable[Feeds] = ()
) -> MixedPrecisionReport:
    """Convert an FP32 ONNX file, check the result, and only then put it in its place.

    Weights stay beside the graph, in ``<target's name>.data``, when the source keeps its own so.

    Raises:
        BackendError: The package onnx is not installed.
        VerificationError: As `convert_model`; or the result fails the ONNX checker or does not load.
        UsageError: A pattern matches nothing.
    """
    try:
        import onnx
    except ImportError as error:
        raise BackendError(
            "Writing an FP16 graph needs the package onnx, which is not installed.", "Install it: pip install onnx."
        ) from error
    model, report = convert_model(read_onnx(source), options, batches)
    external = any(source.parent.glob(f"{source.name}.*"))
    data = f"{target.name}.data"
    try:
        onnx.save(model, target, save_as_external_data=external, location=data if external else None)
        _check(target)
    except BaseException:
        target.unlink(missing_ok=True)
        (target.parent / data).unlink(missing_ok=True)
        raise
    return report


def _matching(view: GraphView, patterns: tuple[str, ...]) -> dict[int, str]:
    """The nodes that patterns name, by number, with the pattern as the reason."""
    found: dict[int, str] = {}
    for pattern in patterns:
        matched = [number for number in range(len(view.nodes)) if _named(view, number, pattern)]
        if not matched:
            raise UsageError(
                f"The pattern {pattern!r} matches no node of the graph.",
                "Give an operator (Softmax), a parameter (*decoder*), or a node's name as Netron shows it.",
            )
        for number in matched:
            for member in (number, *_layer_of(view, number, pattern)):
                found.setdefault(member, f"named by the pattern {pattern}")
    return found


def _matching_products(view: GraphView, patterns: tuple[str, ...]) -> frozenset[int]:
    """The products that patterns name. Raises UsageError when a pattern names none."""
    found: set[int] = set()
    for pattern in patterns:
        products = {number for number in _matching(view, (pattern,)) if view.nodes[number].op_type in PRODUCTS}
        if not products:
            raise UsageError(
                f"The pattern {pattern!r} matches no product of the graph.",
                f"Name products: {', '.join(sorted(PRODUCTS))}, or their layers' parameters.",
            )
        found |= products
    return frozenset(found)


def _named(view: GraphView, number: int, pattern: str) -> bool:
    node = view.nodes[number]
    stored = (name for name in node.input if name in view.initializers)
    return any(fnmatchcase(name, pattern) for name in (node.name, node.op_type, *node.output, *stored))


def _layer_of(view: GraphView, number: int, pattern: str) -> list[int]:
    """The product to which a node adds a bias of a matching name.

    Exporting transposes a linear layer's weight, which loses its name; the bias keeps the layer's.
    """
    node = view.nodes[number]
    if node.op_type != "Add" or not any(fnmatchcase(n, pattern) for n in node.input if n in view.initializers):
        return []
    producers = (view.producers.get(name) for name in view.computed_inputs(number))
    return [producer for producer in producers if producer is not None and view.nodes[producer].op_type in PRODUCTS]


def _check(path: Path) -> None:
    """The ONNX checker, and ONNX Runtime where it is installed: either lets through files that the other refuses."""
    import onnx

    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise VerificationError(f"The mixed-precision graph is not valid: {error}.") from error
    if importlib.util.find_spec("onnxruntime") is not None:
        open_session(path, threads=1)

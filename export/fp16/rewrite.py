"""Writes the FP16 assignment into a graph: rounded stored tensors, and casts where the precision changes."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from tbps_infer.errors import VerificationError
from tbps_infer.export.fp16.operators import FP16_MAX
from tbps_infer.export.graph_view import GraphView

__all__ = ["Rewritten", "overflowing", "rewrite"]

_Kind = Literal["fp16", "fp32", "widened"]
_SHOWN = 5
_WIDE = "_wide"
_SUM = "_sum"


@dataclass(frozen=True)
class Rewritten:
    """A graph in mixed precision.

    Attributes:
        model: The ``onnx.ModelProto``.
        casts: How many casts stand in it that were not in the FP32 graph.
        rounded: How many stored tensors are FP16.
        flushed: The share of their numbers that FP16 rounds to zero.
    """

    model: Any
    casts: int
    rounded: int
    flushed: float


def overflowing(view: GraphView, name: str) -> float | None:
    """The magnitude of a stored tensor's largest number where FP16 has no finite number for it, else None."""
    values = view.values(name)
    if values.size == 0:
        return None
    with np.errstate(over="ignore"):
        fits = np.isfinite(values.astype(np.float16)).all()
    return None if fits else float(np.max(np.abs(values)))


def rewrite(view: GraphView, fp16: Set[int], widened: Set[int] = frozenset()) -> Rewritten:
    """Make the graph in which the numbered nodes compute in FP16.

    Those that are ``widened`` too take and give FP16 and compute in FP32 between casts, which is how TensorRT is told
    to add up in FP32.

    The graph's inputs and outputs keep their names and types; the nodes stay sorted; a value is cast at most once.

    Raises:
        VerificationError: A stored tensor that an FP16 node reads overflows FP16; the message names it.
    """
    _refuse_overflow(view, fp16)
    work = _Rewrite(view, fp16, widened)
    for number in range(len(view.nodes)):
        work.add(number)
    return work.finish()


def _refuse_overflow(view: GraphView, fp16: Set[int]) -> None:
    found: dict[str, str] = {}
    for number in sorted(fp16):
        for name in view.nodes[number].input:
            if name in view.initializers and view.is_float(name) and name not in found:
                largest = overflowing(view, name)
                if largest is not None:
                    found[name] = f"{name} (up to {largest:.4g}, read by {view.label(number)})"
    if found:
        listed = ", ".join(list(found.values())[:_SHOWN])
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        pattern = next(iter(found))
        raise VerificationError(
            f"The graph stores numbers beyond FP16's {FP16_MAX:.0f}: {listed}{more}.",
            f"Keep what reads them in FP32 (--keep-fp32 '{pattern}'), or lower a mask's floor to -3e4.",
        )


@dataclass
class _Rewrite:
    view: GraphView
    fp16: Set[int]
    widened: Set[int]
    nodes: list[Any] = field(default_factory=list)
    names: dict[tuple[str, _Kind], str] = field(default_factory=dict)
    """What an FP32 graph's value is called in either precision, once it is there."""
    stored: dict[str, Any] = field(default_factory=dict)
    casts: int = 0
    flushed: int = 0

    def __post_init__(self) -> None:
        taken = set(self.view.types)
        self._suffix = "_fp16"
        while any(f"{name}{self._suffix}{end}" in taken for name in taken for end in ("", _WIDE, _SUM)):
            self._suffix += "_"
        for value in self.view.model.graph.input:
            self.names[value.name, "fp32"] = value.name

    def add(self, number: int) -> None:
        """Copy a node, its float inputs and outputs in its precision."""
        import onnx

        original = self.view.nodes[number]
        kind: _Kind = "fp16" if number in self.fp16 else "fp32"
        wide = number in self.widened
        read: _Kind = "widened" if wide else kind
        inputs = [
            self._name_in(name, read) if self.view.is_float(name) else self._not_fp32(name) for name in original.input
        ]
        node = onnx.NodeProto()
        node.CopyFrom(original)
        del node.input[:]
        node.input.extend(inputs)
        del node.output[:]
        for name in original.output:
            renamed = kind == "fp16" and self.view.is_float(name)
            given = f"{name}{self._suffix}" if renamed else name
            if self.view.is_float(name):
                self.names[name, kind] = given
            node.output.append(f"{given}{_SUM}" if wide else given)
        self.nodes.append(node)
        if wide:
            self._append_cast(node.output[0], node.output[0].removesuffix(_SUM), "fp16")
        for name in original.output:
            if name in self.view.outputs and self.view.is_float(name):
                self._name_in(name, "fp32")

    def finish(self) -> Rewritten:
        import onnx

        model = self.view.empty_copy()
        model.graph.node.extend(self.nodes)
        model.graph.initializer.extend(self.stored.values())
        rounded = [t for t in self.stored.values() if t.data_type == onnx.TensorProto.FLOAT16]
        numbers = sum(int(np.prod(tensor.dims)) for tensor in rounded)
        return Rewritten(model, self.casts, len(rounded), self.flushed / max(numbers, 1))

    def _not_fp32(self, name: str) -> str:
        """An input that is not FP32, or left out."""
        if name in self.view.initializers:
            self.stored[name] = self.view.initializers[name]
        return name

    def _name_in(self, name: str, kind: _Kind) -> str:
        """The name of a value in a precision, cast or rounded when it is not there yet."""
        if (name, kind) not in self.names:
            if kind == "widened":
                half = self._name_in(name, "fp16")
                self.names[name, kind] = f"{half}{_WIDE}"
                self._append_cast(half, f"{half}{_WIDE}", "fp32")
            elif name in self.view.initializers:
                self.names[name, kind] = self._store(name, kind)
            else:
                self.names[name, kind] = self._cast(name, kind)
        return self.names[name, kind]

    def _store(self, name: str, kind: _Kind) -> str:
        from onnx import numpy_helper

        if kind == "fp32":
            self.stored[name] = self.view.initializers[name]
            return name
        values = self.view.values(name)
        halves = values.astype(np.float16)
        self.flushed += int(np.count_nonzero((halves == 0) & (values != 0)))
        given = f"{name}{self._suffix}"
        self.stored[given] = numpy_helper.from_array(halves, given)
        return given

    def _cast(self, name: str, kind: _Kind) -> str:
        source = self.names[name, "fp32" if kind == "fp16" else "fp16"]
        given = f"{name}{self._suffix}" if kind == "fp16" else name
        self._append_cast(source, given, kind)
        return given

    def _append_cast(self, source: str, given: str, kind: _Kind) -> None:
        from onnx import TensorProto, helper

        to = TensorProto.FLOAT16 if kind == "fp16" else TensorProto.FLOAT
        self.nodes.append(helper.make_node("Cast", [source], [given], name=f"cast_{given}", to=to))
        self.casts += 1

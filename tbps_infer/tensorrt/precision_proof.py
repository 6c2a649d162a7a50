"""Was the precision that was asked for got? Judged by the engine's own kernels, product by product."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from tbps_infer.errors import BackendError
from tbps_infer.formats.json_files import JsonObject
from tbps_infer.model_facts import Precision
from tbps_infer.tensorrt.kernels import Kernel

__all__ = ["GraphPrecision", "PrecisionProof", "Source", "prove_precision"]

Source = Literal["plan", "inspector"]

_SHOWN = 3
_INT8_OPERANDS: Mapping[Source, int] = {"plan": 2, "inspector": 1}
"""INT8 tensors that a kernel reads when it multiplies in INT8: its weight is an operand in the plan's text alone."""


@dataclass(frozen=True)
class GraphPrecision:
    """What a graph asks of its engine.

    Attributes:
        precision: Of the graph; an INT8 graph's other products may be FP16.
        fp16_products: Names of its convolution and matrix product nodes that compute in FP16.
        attentions: How many times it takes a softmax of a product and multiplies it by values.
        int8_products: Names of those that multiply what was dequantised from INT8 on both sides.
        fp32_sums: Names of those that take FP16 numbers and add their products up in FP32; a kernel may do so in FP16
            or FP32.
    """

    precision: Precision
    fp16_products: frozenset[str]
    attentions: int
    int8_products: frozenset[str] = frozenset()
    fp32_sums: frozenset[str] = frozenset()


@dataclass(frozen=True)
class PrecisionProof:
    """What its engine has.

    Attributes:
        source: Where the kernels were read: the plan's text, or TensorRT's engine inspector.
        kernels: How many it has.
        fp16_kernels: How many read or write FP16.
        fp16_products: How many of the graph's FP16 products are in such a kernel.
        int8_kernels: How many read or write INT8.
        int8_products: How many of the graph's INT8 products are in a kernel that multiplies INT8.
        folded_products: How many of the FP16 and INT8 ones are in none at all, having been computed while building.
        unknown_kernels: How many have a type that the engine does not tell.
        unknown_products: How many of the FP16 and INT8 products are in such a kernel and in none of their kind:
            running the engine must show what they are.
        fused_attention: Kernels that compute a whole attention.
        attentions: Attentions of the graph.
    """

    source: Source
    kernels: int
    fp16_kernels: int
    fp16_products: int
    int8_kernels: int
    int8_products: int
    folded_products: int
    unknown_kernels: int
    unknown_products: int
    fused_attention: int
    attentions: int

    @property
    def fp16_share(self) -> float:
        """The share of kernels that read or write FP16."""
        return self.fp16_kernels / self.kernels

    def to_json(self) -> dict[str, Any]:
        """The proof as plain JSON values."""
        return {**dataclasses.asdict(self), "fp16_share": self.fp16_share}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> PrecisionProof:
        """Read what `to_json` wrote; raises ValueError on anything else."""
        read = JsonObject(values, "proof")
        source = read.text("source")
        if source not in get_args(Source):
            raise ValueError(f"proof.source is {source[:40]!r}")
        counts = {f.name: read.integer(f.name) for f in dataclasses.fields(cls) if f.name != "source"}
        return cls(source=cast(Source, source), **counts)


def prove_precision(kernels: Sequence[Kernel], graph: GraphPrecision, source: Source, engine: str) -> PrecisionProof:
    """Compare an engine's kernels with what its graph asks for.

    Args:
        kernels: As `tbps_infer.tensorrt.kernels` reads them.
        graph: What the graph asks for.
        source: Where the kernels were read.
        engine: What to call it in a message.

    Raises:
        BackendError: FP16 or INT8 was asked for and a product is computed in more, or FP16 was not asked for and is
            there; or no kernel is known by its ONNX node, or fewer than half of the products are, so that nothing is
            proven. What the engine does not tell is counted and not an error.
    """
    known = {node for kernel in kernels for node in kernel.nodes}
    half = {node for kernel in kernels if kernel.fp16 for node in kernel.nodes}
    whole = {node for kernel in kernels if kernel.int8_inputs >= _INT8_OPERANDS[source] for node in kernel.nodes}
    unknown = {node for kernel in kernels if kernel.unknown for node in kernel.nodes}
    proof = PrecisionProof(
        source=source,
        kernels=len(kernels),
        fp16_kernels=sum(kernel.fp16 for kernel in kernels),
        fp16_products=len(graph.fp16_products & half),
        int8_kernels=sum("int8" in kernel.dtypes for kernel in kernels),
        int8_products=len(graph.int8_products & whole),
        folded_products=len((graph.fp16_products | graph.int8_products) - known),
        unknown_kernels=sum(kernel.unknown for kernel in kernels),
        unknown_products=len((graph.fp16_products & unknown) - half) + len((graph.int8_products & unknown) - whole),
        fused_attention=sum(kernel.fused_attention for kernel in kernels),
        attentions=graph.attentions,
    )
    if not known:
        raise BackendError(
            f"No kernel of {engine} names the ONNX nodes it was made of, so its precision is not proven."
        )
    if graph.precision == "fp32" and proof.fp16_kernels:
        raise BackendError(f"{graph.precision} was asked for, and {proof.fp16_kernels} kernels of {engine} use FP16.")
    if graph.precision == "int8":
        _require("INT8", graph.int8_products, whole | unknown, known, engine)
    if graph.fp16_products or (graph.precision == "fp16" and not graph.fp32_sums):
        _require("FP16", graph.fp16_products, half | unknown, known, engine)
    return proof


def _require(kind: str, wanted: frozenset[str], got: set[str], known: set[str], engine: str) -> None:
    """Refuse an engine in which a known product is not of its kind, or in which most products are not known.

    Args:
        kind: What they must be.
        wanted: The products.
        got: Nodes that are of the kind, or whose types the engine does not tell.
        known: Nodes that are in any kernel.
        engine: What to call it.
    """
    hint = "Build in fp32, or report it with the versions that tbps doctor prints."
    missed = sorted((wanted & known) - got)
    if missed or not wanted & got:
        names = ", ".join(missed[:_SHOWN]) or "all of them"
        raise BackendError(
            f"{kind} was asked for, and {engine} has {len(missed) or len(wanted)} products in "
            f"{'FP32' if kind == 'FP16' else 'FP32 or FP16'}: {names}.",
            hint,
        )
    if len(wanted - known) > len(wanted & got):
        raise BackendError(
            f"The kernels of {engine} name {len(wanted & got)} of the graph's {len(wanted)} {kind} products, so the "
            "precision of the others is not proven.",
            hint,
        )

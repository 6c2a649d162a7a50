"""Was the precision that was asked for got? Judged by the engine's own kernels, product by product."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tbps_infer.errors import BackendError
from tbps_infer.runners.protocol import Precision
from tbps_infer.tensorrt.kernels import Kernel

__all__ = ["GraphPrecision", "PrecisionProof", "prove_precision"]

_SHOWN = 3


@dataclass(frozen=True)
class GraphPrecision:
    """What a graph asks of its engine.

    Attributes:
        precision: Of the graph.
        fp16_products: Names of its convolution and matrix product nodes that compute in FP16.
        attentions: How many times it takes a softmax of a product and multiplies it by values.
    """

    precision: Precision
    fp16_products: frozenset[str]
    attentions: int


@dataclass(frozen=True)
class PrecisionProof:
    """What its engine has.

    Attributes:
        source: Where the kernels were read: the plan's text, or TensorRT's engine inspector.
        kernels: How many it has.
        fp16_kernels: How many read or write FP16.
        fp16_products: How many of the graph's FP16 products are in such a kernel.
        folded_products: How many of them are in none at all, having been computed while building.
        fused_attention: Kernels that compute a whole attention.
        attentions: Attentions of the graph.
    """

    source: Literal["plan", "inspector"]
    kernels: int
    fp16_kernels: int
    fp16_products: int
    folded_products: int
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
        """Read what `to_json` wrote; raises KeyError or TypeError on anything else."""
        return cls(**{field.name: values[field.name] for field in dataclasses.fields(cls)})


def prove_precision(
    kernels: Sequence[Kernel], graph: GraphPrecision, source: Literal["plan", "inspector"], engine: str
) -> PrecisionProof:
    """Compare an engine's kernels with what its graph asks for.

    Args:
        kernels: As `tbps_infer.tensorrt.kernels` reads them.
        graph: What the graph asks for.
        source: Where the kernels were read.
        engine: What to call it in a message.

    Raises:
        BackendError: FP16 was asked for and a product is in FP32, or the other way round; or no kernel is known by
            its ONNX node, or fewer than half of the products are, so that nothing is proven.
    """
    half = {node for kernel in kernels if kernel.fp16 for node in kernel.nodes}
    known = {node for kernel in kernels for node in kernel.nodes}
    proof = PrecisionProof(
        source=source,
        kernels=len(kernels),
        fp16_kernels=sum(kernel.fp16 for kernel in kernels),
        fp16_products=len(graph.fp16_products & half),
        folded_products=len(graph.fp16_products - known),
        fused_attention=sum(kernel.fused_attention for kernel in kernels),
        attentions=graph.attentions,
    )
    if not known:
        raise BackendError(
            f"No kernel of {engine} names the ONNX nodes it was made of, so its precision is not proven."
        )
    if graph.precision != "fp16" and proof.fp16_kernels:
        raise BackendError(f"{graph.precision} was asked for, and {proof.fp16_kernels} kernels of {engine} use FP16.")
    missed = sorted((graph.fp16_products & known) - half)
    if graph.precision == "fp16" and (missed or not proof.fp16_products):
        names = ", ".join(missed[:_SHOWN]) or "all of them"
        count = len(missed) or len(graph.fp16_products)
        raise BackendError(
            f"FP16 was asked for, and {engine} has {count} products in FP32: {names}.",
            "Build in fp32, or report it with the versions that tbps doctor prints.",
        )
    if graph.precision == "fp16" and proof.folded_products > proof.fp16_products:
        raise BackendError(
            f"The kernels of {engine} name {proof.fp16_products} of the graph's {len(graph.fp16_products)} FP16 "
            "products, so the precision of the others is not proven.",
            "Build in fp32, or report it with the versions that tbps doctor prints.",
        )
    return proof

"""Which ONNX operators may compute in FP16, and why the others may not.

An operator that is in none of these sets is left in FP32: a new one costs speed at first, and never correctness.
LayerNormalization and its kin are among those: islands of one operator, whose results, of order 1, go on in FP16.
"""

from __future__ import annotations

__all__ = ["ELEMENTWISE", "FOLLOWERS", "FP16_MAX", "FP16_OPERATORS", "PRODUCTS", "SUMMING"]

FP16_MAX = 65504.0
"""The largest finite FP16 number (IEEE 754-2008, binary16)."""

PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""Where the time goes. TensorRT adds up in FP16 or in FP32, unless `rewrite` asks it for FP32."""

ELEMENTWISE = frozenset({"Abs", "Add", "Clip", "Div", "Max", "Min", "Mul", "Neg", "Sub", "Where"})
"""Arithmetic on single numbers, which takes part in whatever formula surrounds it."""

_ACTIVATIONS = frozenset(
    {
        "Elu",
        "Erf",
        "Gelu",
        "HardSigmoid",
        "HardSwish",
        "LeakyRelu",
        "PRelu",
        "Relu",
        "Sigmoid",
        "Softmax",  # beside two products: fused attention wants all three in one type
        "Tanh",
    }
)

FOLLOWERS = frozenset(
    {
        "Concat",
        "DepthToSpace",
        "Expand",
        "Flatten",
        "Gather",
        "GatherElements",
        "GatherND",
        "GlobalMaxPool",
        "Identity",
        "MaxPool",
        "Pad",
        "ReduceMax",
        "ReduceMin",
        "Reshape",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "Tile",
        "Transpose",
        "Unsqueeze",
    }
)
"""Operators that move numbers or pick one, and round nothing: they take the precision of what surrounds them."""

SUMMING = frozenset(
    {
        "AveragePool",
        "CumSum",
        "Einsum",
        "Exp",
        "GlobalAveragePool",
        "Log",
        "LpNormalization",
        "Pow",
        "Reciprocal",
        "ReduceL1",
        "ReduceL2",
        "ReduceLogSum",
        "ReduceLogSumExp",
        "ReduceMean",
        "ReduceProd",
        "ReduceSum",
        "ReduceSumSquare",
        "Sqrt",
    }
)
"""Operators of means, norms and powers: squares overflow FP16 from 256 on and vanish below 2.4e-4, and sums lose
the addends, so these stay in FP32 with the arithmetic around them."""

FP16_OPERATORS = PRODUCTS | ELEMENTWISE | _ACTIVATIONS
"""What computes in FP16 unless something around it speaks against it."""

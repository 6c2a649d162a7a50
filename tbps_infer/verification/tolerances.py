"""How far a graph or an engine may be from the model it was made from."""

from __future__ import annotations

from dataclasses import dataclass

from tbps_infer.model_facts import Precision

__all__ = ["FP16_LIMITS", "GPU_FP32_LIMITS", "INT8_LIMITS", "VerificationLimits", "limits_for"]


@dataclass(frozen=True)
class VerificationLimits:
    """Bounds on `tbps_infer.verification.parity_report.VerificationReport`; the defaults are for FP32.

    FP32 graphs differ from PyTorch by the order in which sums are taken and nothing else. On ONNX Runtime's CPU
    provider that came to 1.5e-12 below a cosine of 1, 3e-7 in any number, 2e-7 in a norm and 7e-8 between an item
    alone and in a batch, for ResNet-50 with BERT-base and for the tiny configuration alike. The defaults leave a
    factor of thirty or more for other processors' orders, and none for what is not FP32: with no more than its
    weights rounded to TF32's 10 bits the tiny configuration differs by 1.5e-4 (images) and 9e-5 (text).

    Attributes:
        cosine: The least cosine between candidate and reference, of whole embeddings and of each segment.
        difference: The largest difference of any one number of an embedding.
        norm: The largest difference of an embedding's or segment's norm from what the layout declares.
        drift: The largest difference of any number between an item alone and the same item in a batch, and between
            a caption at its own length and the same caption padded.
        top_k: How many pictures of each caption's ranking are compared.
        overlap: The least share of them that candidate and reference have in common, over all captions.
        tie: Pictures whose reference similarities differ by no more than this may take each other's places.
    """

    cosine: float = 0.9999999
    difference: float = 1e-5
    norm: float = 1e-5
    drift: float = 1e-5
    top_k: int = 5
    overlap: float = 1.0
    tie: float = 1e-5


GPU_FP32_LIMITS = VerificationLimits(cosine=0.999999, difference=1e-4, norm=1e-4, drift=1e-4, tie=1e-4)
"""FP32 on a GPU sums in other orders than a CPU; products rounded to TF32 would differ by 1.5e-4."""

FP16_LIMITS = VerificationLimits(cosine=0.9999, difference=1e-2, norm=1e-4, drift=1e-2, tie=1e-2)
"""FP16. Emulated on a CPU, the trained tiny model differs by 3.4e-4 in a number and 1.9e-3 in a similarity, at
cosines from 0.9999994 on; a GPU may add up in FP16 too. Norms are made in FP32 from whatever comes in."""

INT8_LIMITS = VerificationLimits(cosine=0.998, difference=5e-2, norm=1e-4, drift=1e-2, overlap=0.95, tie=1e-1)
"""INT8 beside the bundle's INT8 graphs on a CPU, whose loss the export has judged. A last bit in FP16 moves a number
over the edge of a step of INT8: the trained tiny model, with FP16 emulated on a CPU, comes to cosines from 0.9996 on,
1.2e-2 in a number, 4.7e-2 in a similarity, 1.2e-3 between a caption and the same padded, and 98.4 % of the first five
without ties; a GPU sums in yet another order."""


def limits_for(precision: Precision) -> VerificationLimits:
    """How far engines of a precision may be from the graphs of the bundle that they are compared with."""
    return {"fp32": GPU_FP32_LIMITS, "fp16": FP16_LIMITS, "int8": INT8_LIMITS}[precision]

"""What a bundle's engine is compared with: its checkpoint in PyTorch, its own FP32 graphs, or its golden vectors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tbps_infer.bundle import Bundle
from tbps_infer.encoder import Encoder
from tbps_infer.errors import UsageError, VerificationError
from tbps_infer.model_facts import BRANCHES
from tbps_infer.runners import RunOptions
from tbps_infer.verification.agreement import Embedded
from tbps_infer.verification.evaluation_set import EvaluationSet, OnProgress, embed_set, golden_set
from tbps_infer.verification.golden import golden_cosine
from tbps_infer.verification.tolerances import GOLDEN_COSINE

if TYPE_CHECKING:
    from tbps_infer.families.table import SourceModel

__all__ = ["Reference", "checkpoint_reference", "choose_reference", "golden_reference", "graphs_reference"]


@dataclass(frozen=True)
class Reference:
    """What a candidate is compared with.

    Attributes:
        kind: ``checkpoint`` in PyTorch, the bundle's own ``fp32 graphs``, or its ``golden vectors``.
        description: For people.
        embed: Embeds a set.
    """

    kind: Literal["checkpoint", "fp32 graphs", "golden vectors"]
    description: str
    embed: Callable[[EvaluationSet, OnProgress], Embedded]


def choose_reference(
    bundle: Bundle, run: RunOptions, source: SourceModel | None, data: EvaluationSet | None
) -> tuple[Reference, EvaluationSet]:
    """What to compare an engine with, and on what.

    A checkpoint, where one is given. Otherwise the bundle's FP32 graphs on the CPU; where there are no data, the
    bundle's golden vectors.

    Args:
        bundle: The candidate's.
        run: How the candidate runs.
        source: The checkpoint that the bundle was exported from.
        data: What to compare on; the golden crops and captions when not given.

    Raises:
        UsageError: The candidate would be compared with itself, or the checkpoint is another model's.
        BundleError: The golden vectors are missing or were altered.
    """
    if source is not None:
        return checkpoint_reference(bundle, source, run.threads), data or golden_set(bundle)
    if data is None:
        return golden_reference(bundle), golden_set(bundle)
    if (run.backend, run.device, run.precision) == ("onnxruntime", "cpu", "fp32"):
        raise UsageError(
            "The FP32 graphs on the CPU would be compared with themselves.",
            "Give the checkpoint (--reference CHECKPOINT), or no data, to compare with the golden vectors.",
        )
    return graphs_reference(bundle, run.threads), data


def checkpoint_reference(bundle: Bundle, source: SourceModel, threads: int | None = None) -> Reference:
    """A bundle's checkpoint in PyTorch FP32 on the CPU; raises UsageError when it is another model's."""
    if source.facts.fingerprint != bundle.model.fingerprint:
        raise UsageError(
            f"{bundle.path} was not exported from {source.path}: their fingerprints are "
            f"{bundle.model.fingerprint[:12]} and {source.facts.fingerprint[:12]}.",
            "Give the checkpoint that tbps export was given.",
        )

    def embed(data: EvaluationSet, on_progress: OnProgress) -> Embedded:
        with Encoder.of_model(source, RunOptions("torch", threads=threads)) as encoder:
            return embed_set(encoder, data, on_progress)

    return Reference("checkpoint", f"checkpoint {source.name} in PyTorch fp32 on the CPU", embed)


def graphs_reference(bundle: Bundle, threads: int | None = None) -> Reference:
    """A bundle's FP32 graphs in ONNX Runtime on the CPU, once they have reproduced its golden vectors."""

    def embed(data: EvaluationSet, on_progress: OnProgress) -> Embedded:
        with Encoder.of_model(bundle, RunOptions(threads=threads)) as encoder:
            for branch in BRANCHES:
                cosine = golden_cosine(bundle.golden(), branch, encoder.runner(branch))
                if not cosine >= GOLDEN_COSINE["fp32"]:
                    raise VerificationError(
                        f"The FP32 graph of the {branch} branch is no reference: it gives the golden vectors with a "
                        f"cosine of {cosine:.6f}.",
                        "Export the bundle again, or give the checkpoint: --reference CHECKPOINT.",
                    )
            return embed_set(encoder, data, on_progress)

    return Reference("fp32 graphs", "the bundle's own FP32 graphs in ONNX Runtime on the CPU", embed)


def golden_reference(bundle: Bundle) -> Reference:
    """A bundle's golden vectors, which PyTorch wrote when it was exported."""

    def embed(_data: EvaluationSet, _on_progress: OnProgress) -> Embedded:
        golden = bundle.golden()
        return Embedded(golden.image_embeddings, golden.text_embeddings)

    return Reference("golden vectors", "the golden vectors that PyTorch wrote at export", embed)

"""The gate at export and at build: what fails it on the user's own data is not installed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tbps_infer.bundle import Bundle
from tbps_infer.encoder import Encoder
from tbps_infer.errors import BackendError
from tbps_infer.model_facts import Branch, Precision
from tbps_infer.runners import Runner, RunOptions
from tbps_infer.tensorrt.engine_folder import EngineFolder
from tbps_infer.tensorrt.flavours import FlavourName
from tbps_infer.text import Tokenizer
from tbps_infer.verification.evaluation_set import EvaluationSet
from tbps_infer.verification.gate import GateResult, hold_to_gate, record_verdict
from tbps_infer.verification.references import checkpoint_reference, graphs_reference
from tbps_infer.verification.tolerances import GATE, Thresholds, refuse_failures

if TYPE_CHECKING:
    from tbps_infer.families.table import SourceModel

__all__ = ["gate_engines", "gate_graphs"]


def gate_graphs(
    folder: Path,
    source: SourceModel,
    data: EvaluationSet,
    limits: Mapping[Precision, Thresholds],
    on_step: Callable[[str], None] = lambda _step: None,
) -> None:
    """Hold a written bundle's graphs to the gate, on the CPU beside their checkpoint, and record the verdicts.

    Args:
        folder: The bundle's, its facts included.
        source: What it was exported from.
        data: What to compare on.
        limits: Which graphs to hold to what.
        on_step: Called with a sentence when one begins.

    Raises:
        VerificationError: One does not pass; the sentences say by how much.
    """
    bundle = Bundle.open(folder)
    reference = checkpoint_reference(bundle, source)
    for precision, thresholds in limits.items():
        on_step(f"Holding the {precision} graphs to the gate on {data}")
        run = RunOptions(precision=precision)
        with Encoder.of_model(bundle, run) as candidate:
            result = hold_to_gate(candidate, run, reference, data, thresholds)
        refuse_failures(
            result.verdict.failures,
            "Nothing was written. tbps verify --max-rank1-drop sets other limits for what is.",
            f"The gate refuses {result.run.label}: ",
        )
        record_verdict(folder, result)


def gate_engines(
    folder: EngineFolder,
    bundle: Bundle,
    data: EvaluationSet,
    device: int,
    open_branch: Callable[[Branch], Runner],
    on_step: Callable[[str], None] = lambda _step: None,
) -> GateResult:
    """Hold engines to the gate, beside their bundle's FP32 graphs on the CPU.

    Args:
        folder: The engines.
        bundle: Whose graphs they were built from.
        data: What to compare on.
        device: Index of the GPU.
        open_branch: Opens their runners.
        on_step: Called with a sentence when it begins.

    Returns:
        What came of it, passed; to be recorded when the engines are in their place.

    Raises:
        VerificationError: They do not pass.
        BackendError: They cannot be executed on this machine.
    """
    facts = folder.facts
    if not facts.self_check.get("executed"):
        raise BackendError(
            f"The engines cannot be held to the gate: {facts.self_check.get('reason', 'they were not executed')}.",
            "Build them on the machine that runs them, or without data to verify on.",
        )
    on_step(f"Holding the engines to the gate on {data}")
    flavour: FlavourName = facts.flavour
    run = RunOptions(flavour, f"cuda:{device}", facts.precision)
    tokenizer = Tokenizer.from_bundle(bundle)
    with Encoder(bundle.model, tokenizer, lambda: open_branch("image"), lambda: open_branch("text")) as candidate:
        result = hold_to_gate(candidate, run, graphs_reference(bundle), data, GATE[facts.precision])
    refuse_failures(
        result.verdict.failures,
        "No new engine was installed. Keep more in FP32: --auto-islands, --keep-fp32.",
        f"The gate refuses {result.run.label}: ",
    )
    return result

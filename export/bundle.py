"""From a checkpoint to a verified bundle: written beside its place, and moved there only when all is well."""

from __future__ import annotations

import contextlib
import platform
import shutil
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tbps_infer.atomic import new_folder
from tbps_infer.bundle import Bundle, file_facts, is_bundle
from tbps_infer.devices import installed_versions
from tbps_infer.encoder import Encoder
from tbps_infer.errors import BundleError, UsageError
from tbps_infer.export.fp16.bundle_graphs import write_half_graphs
from tbps_infer.export.golden import write_golden
from tbps_infer.export.graphs import export_attention, export_graph
from tbps_infer.export.int8.bundle_graphs import write_int8_graphs
from tbps_infer.export.options import ExportOptions
from tbps_infer.families.table import SourceModel, load_source
from tbps_infer.model_facts import BRANCHES, Precision
from tbps_infer.reference.checkpoint import FAMILY
from tbps_infer.reference.model import PartModel
from tbps_infer.runners.onnxruntime_runner import OnnxRuntimeRunner
from tbps_infer.runners.options import RunOptions
from tbps_infer.runners.protocol import Feeds
from tbps_infer.text import Tokenizer
from tbps_infer.verification.evaluation_set import EvaluationSet
from tbps_infer.verification.gate import hold_to_gate, record_verdict
from tbps_infer.verification.parity import Embed, Shapes, measure_parity
from tbps_infer.verification.references import checkpoint_reference
from tbps_infer.verification.samples import prepare_samples, synthetic_samples
from tbps_infer.verification.tolerances import Thresholds, refuse_failures

__all__ = ["export_bundle", "torch_reference"]

_PACKAGES = (
    *("tbps-infer", "torch", "transformers", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu"),
    *("numpy", "pillow", "tokenizers"),
)


def export_bundle(
    checkpoint: Path,
    out: Path,
    options: ExportOptions | None = None,
    on_step: Callable[[str], None] = lambda _step: None,
) -> Bundle:
    """Export a checkpoint's two branches, verify them, and write the bundle.

    Everything is written into a folder beside ``out``, which takes its name at the end. On any error, and on an
    interruption, that folder is removed and ``out`` is as it was.

    Args:
        checkpoint: A checkpoint's folder or file.
        out: Where the bundle goes; its parent folders are made.
        options: What kind of checkpoint, which opset, what to verify on.
        on_step: Called with a few words when each step begins.

    Raises:
        BundleError: ``out`` already exists and is not to be, or not a bundle that could be, replaced.
        CheckpointError: The checkpoint cannot be read.
        UsageError: The options do not fit.
        VerificationError: A graph is not valid, or not what the PyTorch model is, or does not pass the gate.
    """
    options = options or ExportOptions()
    _check_place(out, options.overwrite)
    on_step(f"Loading {checkpoint}")
    source = load_source(options.family, checkpoint, options.load)
    decoding = _with_decoder(source, checkpoint) if options.with_attention else None
    with new_folder(out, BundleError, replace=is_bundle(out)) as folder:
        for branch in BRANCHES:
            on_step(f"Exporting the {branch} branch")
            export_graph(
                source.branch(branch),
                branch,
                source.facts,
                folder / f"{branch}.onnx",
                opset=options.opset,
                external_data=options.external_data,
            )
        if decoding is not None:
            on_step("Exporting the attention graphs")
            export_attention(decoding, source.facts, folder, opset=options.opset)
        shutil.copyfile(source.tokenizer_path, folder / "tokenizer.json")
        verification = _compare(source, folder, options, on_step)
        on_step("Hashing the files")
        Bundle(
            path=folder,
            model=source.facts,
            files=file_facts(folder),
            opset=options.opset,
            versions=_versions(),
            source={
                "name": source.name,
                "sha256": source.sha256,
                **({"dropped": dict(source.dropped)} if source.dropped else {}),
                **({"assumed": dict(source.assumed)} if source.assumed else {}),
            },
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            verification=verification,
        ).write_facts()
        if options.gate_on is not None:
            _gate(folder, source, options.gate_on, options.gate_limits, on_step)
    return Bundle.open(out)


def _with_decoder(source: SourceModel, checkpoint: Path) -> PartModel:
    model = source.image.get_submodule("model")
    if not isinstance(model, PartModel):
        raise UsageError(
            f"Attention graphs are of the family {FAMILY}, and {checkpoint} is of {source.facts.family}.",
            "Leave --with-attention out.",
        )
    return model


def torch_reference(module: nn.Module) -> Embed:
    """A module, its arguments named as the branch's inputs, as a callable from arrays by name to embeddings."""

    def embed(feeds: Feeds) -> NDArray[np.float32]:
        with torch.inference_mode():
            tensors = {name: torch.tensor(array) for name, array in feeds.items()}
            embedding: NDArray[np.float32] = module(**tensors).numpy()
        return embedding

    return embed


def _compare(
    source: SourceModel, folder: Path, options: ExportOptions, on_step: Callable[[str], None]
) -> dict[str, Any]:
    """Write the golden vectors, compare the graphs with PyTorch, and derive those of the precision asked for.

    Raises:
        VerificationError: Graphs are not what PyTorch is.
    """
    facts = source.facts
    tokenizer = Tokenizer.from_facts(source.tokenizer_path, facts)
    reference = {branch: torch_reference(source.branch(branch)) for branch in BRANCHES}
    pairs = synthetic_samples()
    on_step("Writing golden vectors")
    write_golden(folder, pairs, facts.preprocessing, tokenizer, reference)
    samples = prepare_samples(options.samples or pairs, facts.preprocessing, tokenizer)
    on_step(f"Verifying on {len(samples.pixels)} crops and {len(samples.rows)} captions")
    with contextlib.ExitStack() as stack:
        runners = {}
        for branch in BRANCHES:
            runners[branch] = OnnxRuntimeRunner(folder / f"{branch}.onnx", RunOptions())
            stack.callback(runners[branch].close)
        shapes = Shapes.up_to(facts.max_length)
        report = measure_parity(reference, runners, facts.layout, samples, shapes, options.limits)
    refuse_failures(
        report.failures,
        "Nothing was written. The graphs do not compute what the checkpoint does: please report it, with the "
        "versions of torch, onnxscript and onnxruntime.",
    )
    if options.precision == "fp32":
        return report.to_json()
    if options.int8 is not None:
        return {**report.to_json(), "int8": write_int8_graphs(folder, facts, tokenizer, options.int8, on_step)}
    on_step("Converting the graphs to FP16, and verifying them")
    halves = write_half_graphs(folder, reference, facts.layout, samples, facts.max_length, options.mixed)
    return {**report.to_json(), "fp16": halves}


def _gate(
    folder: Path,
    source: SourceModel,
    data: EvaluationSet,
    limits: Mapping[Precision, Thresholds],
    on_step: Callable[[str], None],
) -> None:
    """Hold a written bundle's graphs to the gate, on the CPU beside their checkpoint, and record the verdicts.

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
            f"The gate refuses {run.label}: ",
        )
        record_verdict(folder, result)


def _check_place(out: Path, overwrite: bool) -> None:
    if not out.exists() and not out.is_symlink():
        return
    if not overwrite:
        raise BundleError(f"{out} already exists.", "Choose another name, or replace it with --overwrite.")
    if out.is_symlink() or not is_bundle(out):
        raise BundleError(f"{out} already exists and is not a bundle, so it is not overwritten.", "Move it away.")


def _versions() -> Mapping[str, str]:
    return {"python": platform.python_version(), **installed_versions(_PACKAGES)}

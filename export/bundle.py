"""From a checkpoint to a verified bundle: written under a temporary name, and in its place only when all is well."""

from __future__ import annotations

import contextlib
import platform
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tbps_infer.bundle import Bundle, file_facts
from tbps_infer.devices import installed_versions
from tbps_infer.encoder import Encoder
from tbps_infer.errors import BundleError, UsageError
from tbps_infer.export.fp16.bundle_graphs import write_half_graphs
from tbps_infer.export.golden import write_golden
from tbps_infer.export.graphs import export_attention, export_graph
from tbps_infer.export.int8.bundle_graphs import write_int8_graphs
from tbps_infer.export.options import ExportOptions
from tbps_infer.export.output import Output
from tbps_infer.families.table import SourceModel, load_source
from tbps_infer.model_facts import BRANCHES, Branch, Precision
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
from tbps_infer.verification.samples import Samples, prepare_samples, synthetic_samples
from tbps_infer.verification.tolerances import refuse_failures

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
    """Export a checkpoint's two branches, verify them, and write the bundle; or add graphs to a bundle.

    Everything is written into a temporary folder beside ``out``, or inside it where it is there, and takes its place
    at the end. On any error, and on an interruption, that folder is removed and ``out`` is as it was. Files that no
    export wrote stay.

    Args:
        checkpoint: A checkpoint's folder or file.
        out: Where the bundle goes; its parent folders are made. It may be there and be empty.
        options: What kind of checkpoint, which opset, which precisions, what to verify on.
        on_step: Called with a few words when each step begins.

    Raises:
        BundleError: ``out`` already exists and is not to be, or not a bundle that could be, replaced; or a bundle to
            add to is of another checkpoint, or damaged.
        CheckpointError: The checkpoint cannot be read.
        UsageError: The options do not fit.
        VerificationError: A graph is not valid, or not what the PyTorch model is, or does not pass the gate.
    """
    options = options or ExportOptions()
    output = Output.find(out, options)
    there = Bundle.open(out) if options.add else None
    precisions = [each for each in options.precisions if each != "fp32" and not _has(there, each)]
    if "int8" in precisions:
        options.refuse_uncalibrated()
    on_step(f"Loading {checkpoint}")
    source = load_source(options.family, checkpoint, options.load)
    decoding = _with_decoder(source, checkpoint) if options.with_attention else None
    if there is not None:
        _refuse_other_model(there, source, checkpoint)
        if not precisions:
            on_step(f"{out} has these graphs already")
            return there
    with output.opened() as folder:
        work = _Work(source, folder, options, on_step)
        if there is None:
            bundle = work.exported(decoding)
        else:
            bundle = work.copied(there)
        verification = dict(bundle.verification)
        for each in precisions:
            verification[each] = work.derive(each)
        on_step("Hashing the files")
        replace(bundle, files=file_facts(folder), verification=verification).write_facts()
        if options.gate_on is not None:
            judged: list[Precision] = [] if there else ["fp32"]
            # ONNX Runtime runs FP16 graphs on a GPU alone.
            work.gate([*judged, *(each for each in precisions if each == "int8")], options.gate_on)
    if output.kept() and there is None:
        on_step(f"Kept in {out}, as it is not part of the bundle: {', '.join(output.kept())}")
    return Bundle.open(out)


def _has(bundle: Bundle | None, precision: Precision) -> bool:
    return bundle is not None and all(bundle.graph_files(branch, precision) for branch in BRANCHES)


def _refuse_other_model(bundle: Bundle, source: SourceModel, checkpoint: Path) -> None:
    """Raise BundleError where a bundle is not of the checkpoint that graphs are to be added of."""
    if bundle.model.fingerprint != source.facts.fingerprint:
        others = ", ".join(bundle.model.differences(source.facts))
        raise BundleError(
            f"{bundle.path} was not exported from {checkpoint}: they differ in {others}.",
            "Name the checkpoint that it was exported from, or another output.",
        )


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


@dataclass(frozen=True)
class _Work:
    """One export under way, in the folder that becomes a bundle."""

    source: SourceModel
    folder: Path
    options: ExportOptions
    on_step: Callable[[str], None]

    @cached_property
    def reference(self) -> dict[Branch, Embed]:
        """The PyTorch model's branches."""
        return {branch: torch_reference(self.source.branch(branch)) for branch in BRANCHES}

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The checkpoint's."""
        return Tokenizer.from_facts(self.source.tokenizer_path, self.source.facts)

    @cached_property
    def samples(self) -> Samples:
        """What graphs are verified on."""
        pairs = self.options.samples or synthetic_samples()
        return prepare_samples(pairs, self.source.facts.preprocessing, self.tokenizer)

    def exported(self, decoding: PartModel | None) -> Bundle:
        """Write the FP32 graphs and what goes with them, verified; ``bundle.json`` is not written yet.

        Raises:
            VerificationError: Graphs are not what PyTorch is.
        """
        facts, options = self.source.facts, self.options
        for branch in BRANCHES:
            self.on_step(f"Exporting the {branch} branch")
            export_graph(
                self.source.branch(branch),
                branch,
                facts,
                self.folder / f"{branch}.onnx",
                opset=options.opset,
                external_data=options.external_data,
            )
        if decoding is not None:
            self.on_step("Exporting the attention graphs")
            export_attention(decoding, facts, self.folder, opset=options.opset)
        shutil.copyfile(self.source.tokenizer_path, self.folder / "tokenizer.json")
        self.on_step("Writing golden vectors")
        write_golden(self.folder, synthetic_samples(), facts.preprocessing, self.tokenizer, self.reference)
        return Bundle(
            path=self.folder,
            model=facts,
            files={},
            opset=options.opset,
            versions=_versions(),
            source={
                "name": self.source.name,
                "sha256": self.source.sha256,
                **({"dropped": dict(self.source.dropped)} if self.source.dropped else {}),
                **({"assumed": dict(self.source.assumed)} if self.source.assumed else {}),
            },
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            verification=self._verify(),
        )

    def copied(self, bundle: Bundle) -> Bundle:
        """Copy the files of a bundle that graphs are added to; raises BundleError where one was altered."""
        for name in bundle.files:
            copy = self.folder / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle.check_file(name), copy)
        return replace(bundle, path=self.folder)

    def _verify(self) -> dict[str, Any]:
        """Compare the FP32 graphs with PyTorch; raises VerificationError where they are not the same."""
        facts, samples = self.source.facts, self.samples
        self.on_step(f"Verifying on {len(samples.pixels)} crops and {len(samples.rows)} captions")
        with contextlib.ExitStack() as stack:
            runners = {}
            for branch in BRANCHES:
                runners[branch] = OnnxRuntimeRunner(self.folder / f"{branch}.onnx", RunOptions())
                stack.callback(runners[branch].close)
            shapes = Shapes.up_to(facts.max_length)
            report = measure_parity(self.reference, runners, facts.layout, samples, shapes, self.options.limits)
        refuse_failures(
            report.failures,
            "Nothing was written. The graphs do not compute what the checkpoint does: please report it, with the "
            "versions of torch, onnxscript and onnxruntime.",
        )
        return report.to_json()

    def derive(self, precision: Precision) -> dict[str, Any]:
        """Write the graphs of another precision beside the FP32 ones, verified; returns what was found.

        Raises:
            VerificationError: They lose too much.
        """
        facts, options = self.source.facts, self.options
        if precision == "int8":
            assert options.int8 is not None  # else refused before
            return write_int8_graphs(self.folder, facts, self.tokenizer, options.int8, self.on_step)
        self.on_step("Converting the graphs to FP16, and verifying them")
        return write_half_graphs(
            self.folder, self.reference, facts.layout, self.samples, facts.max_length, options.mixed
        )

    def gate(self, precisions: Sequence[Precision], data: EvaluationSet) -> None:
        """Hold the written bundle's graphs to the gate, on the CPU beside their checkpoint, and record the verdicts.

        Raises:
            VerificationError: One does not pass; the sentences say by how much.
        """
        bundle = Bundle.open(self.folder)
        reference = checkpoint_reference(bundle, self.source)
        for precision in precisions:
            self.on_step(f"Holding the {precision} graphs to the gate on {data}")
            run = RunOptions(precision=precision)
            with Encoder.of_model(bundle, run) as candidate:
                result = hold_to_gate(candidate, run, reference, data, self.options.gate_limits(precision))
            refuse_failures(
                result.verdict.failures,
                "Nothing was written. tbps verify --max-rank1-drop sets other limits for what is.",
                f"The gate refuses {run.label}: ",
            )
            record_verdict(self.folder, result)


def _versions() -> Mapping[str, str]:
    return {"python": platform.python_version(), **installed_versions(_PACKAGES)}

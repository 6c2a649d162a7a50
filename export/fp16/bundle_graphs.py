"""The FP16 graphs of a bundle, for ONNX Runtime on a GPU: derived from the FP32 ones, and tried before they are kept.

On the CPU ONNX Runtime would compute them in FP32, so their emulation is tried, which rounds where a GPU does.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tbps_infer.export.fp16.convert import MixedPrecisionOptions, convert_file
from tbps_infer.export.fp16.emulation import emulated
from tbps_infer.formats.onnx_files import read_onnx
from tbps_infer.layout import VectorLayout
from tbps_infer.model_facts import BRANCHES, Branch
from tbps_infer.runners.onnxruntime_runner import OnnxRuntimeRunner
from tbps_infer.runners.options import RunOptions
from tbps_infer.verification.parity import Embed, Shapes, measure_parity
from tbps_infer.verification.samples import Samples, sample_batches
from tbps_infer.verification.tolerances import PARITY, refuse_failures

__all__ = ["write_half_graphs"]


def write_half_graphs(
    folder: Path,
    reference: Mapping[Branch, Embed],
    layout: VectorLayout,
    samples: Samples,
    max_length: int,
    options: MixedPrecisionOptions,
) -> dict[str, Any]:
    """Write ``image.fp16.onnx`` and ``text.fp16.onnx`` beside the FP32 graphs.

    Args:
        folder: With ``image.onnx`` and ``text.onnx``.
        reference: The model that they were exported from.
        layout: The division of its embeddings.
        samples: What to try them on, and to measure activations on if the options say so.
        max_length: Tokens per caption at most.
        options: What stays in FP32.

    Returns:
        What became of each graph, and how far it is from the reference, as plain JSON values.

    Raises:
        VerificationError: A graph does not fit FP16, or computes something else than the reference.
    """
    import onnx

    converted = {}
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=folder, prefix="emulated-")))
        runners = {}
        for branch in BRANCHES:
            target = folder / f"{branch}.fp16.onnx"
            batches = sample_batches(samples, branch, max_length) if options.auto_islands else ()
            converted[branch] = convert_file(folder / f"{branch}.onnx", target, options, batches).to_json()
            onnx.save(emulated(read_onnx(target)), scratch / target.name)
            runners[branch] = OnnxRuntimeRunner(scratch / target.name, RunOptions())
            stack.callback(runners[branch].close)
        report = measure_parity(reference, runners, layout, samples, Shapes.up_to(max_length), PARITY["fp16"])
    refuse_failures(report.failures, "Keep more in FP32 (--auto-islands, --keep-fp32), or export in fp32.")
    return {"emulated": True, "mixed_precision": converted, **report.to_json()}

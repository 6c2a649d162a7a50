"""TensorRT for RTX takes products that are added up in FP32, and the precision proof takes its engines."""

from __future__ import annotations

from pathlib import Path

import pytest

from tbps_infer.bundle import Bundle
from tbps_infer.export.engines.source_graphs import engine_graph, graph_precision
from tbps_infer.export.fp16.convert import MixedPrecisionOptions
from tbps_infer.tensorrt.kernels import rtx_programs
from tbps_infer.tensorrt.library import open_library
from tbps_infer.tensorrt.plan_builder import build_plan
from tbps_infer.tensorrt.plan_spec import BatchRange, BuildSettings, plan_spec
from tbps_infer.tensorrt.precision_proof import PrecisionProof, prove_precision

pytest.importorskip("tensorrt_rtx")


def proven(bundle: Bundle, scratch: Path, *patterns: str) -> tuple[int, PrecisionProof]:
    """How many products of the text branch are added up in FP32, and the proof of its engine."""
    options = MixedPrecisionOptions(fp32_accumulation=patterns)
    graph, _ = engine_graph(bundle, "text", "fp16", options, scratch)
    wanted = graph_precision(graph, "fp16")
    spec = plan_spec(bundle.model, "text", BatchRange(1, 8, 32), (32,))
    plan = build_plan(open_library("tensorrt-rtx"), graph, spec, BuildSettings(target="sm86"))
    return len(wanted.fp32_sums), prove_precision(rtx_programs(plan)[0].kernels, wanted, "plan", "text-32.plan")


@pytest.mark.slow
def test_products_added_up_in_fp32_are_built_and_proven(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    none, usual = proven(bundle, tmp_path)
    some, layer = proven(bundle, tmp_path, "*encoder.layer.0*intermediate*")
    all_of_them, everywhere = proven(bundle, tmp_path, "MatMul", "Gemm")
    assert none == 0 < some
    assert layer.fp16_products == usual.fp16_products - some
    assert layer.fused_attention == usual.fused_attention == usual.attentions
    # No product is left that must be FP16, which is not the same as an engine that came out in FP32.
    assert (all_of_them, everywhere.fp16_products) == (usual.fp16_products, 0)
    assert everywhere.fp16_kernels > usual.fp16_kernels // 2

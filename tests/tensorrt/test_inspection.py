"""What the engine inspector tells in its ways of writing, and what is made of what it does not tell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fake_memory import FakeMemory
from fake_tensorrt import fake_library

from tbps_infer.errors import BackendError
from tbps_infer.tensorrt.inspection import inspect_engine
from tbps_infer.tensorrt.kernels import Kernel, inspected_kernels
from tbps_infer.tensorrt.precision_proof import GraphPrecision, prove_precision

INSPECTOR = Path(__file__).parent / "inspector"
NOT_TOLD = "N/A due to dynamic shapes"
FP16_GRAPH = GraphPrecision("fp16", frozenset({"node_conv2d", "node_linear", "node_scores", "node_values"}), 1)
FP32_GRAPH = GraphPrecision("fp32", frozenset(), 1)


def inspected(name: str) -> tuple[Kernel, ...]:
    return inspected_kernels((INSPECTOR / f"{name}.json").read_text(encoding="utf-8"))


def untold(node: str, tactic: str, weights: str | None) -> Kernel:
    """A layer whose tensors' types are not told."""
    tensor = {"Name": "t", "Location": "Device", "Dimensions": [-1, 64], "Format/Datatype": NOT_TOLD}
    layer: dict[str, Any] = {"Name": "fc", "Inputs": [tensor], "Outputs": [tensor], "TacticName": tactic}
    layer["Metadata"] = f"[ONNX Layer: {node}]"
    if weights is not None:
        layer["Weights"] = {"Type": weights, "Count": 9}
    (kernel,) = inspected_kernels(json.dumps({"Layers": [layer]}))
    return kernel


@pytest.mark.parametrize("name", ["10.3-context", "10.16-context", "11.4-context", "11.4-no-context"])
def test_an_engine_whose_types_are_told_is_proven_in_every_version(name: str) -> None:
    kernels = inspected(name)
    assert [kernel.fp16 for kernel in kernels] == [True, True, True, True, False]
    proof = prove_precision(kernels, FP16_GRAPH, "inspector", "image.plan")
    assert (proof.fp16_products, proof.unknown_kernels, proof.unknown_products) == (4, 0, 0)
    assert proof.fused_attention == 1
    with pytest.raises(BackendError, match="fp32 was asked for, and 4 kernels"):
        prove_precision(kernels, FP32_GRAPH, "inspector", "image.plan")


def test_types_that_depend_on_shapes_are_known_by_tactic_and_weights_or_unknown() -> None:
    """Without a context with shapes 10.3 gives none, and what is not told is not "not FP16"."""
    kernels = inspected("10.3-no-context")
    assert [(kernel.fp16, kernel.unknown) for kernel in kernels] == [
        (False, True),  # a reformat, of no product
        (True, False),  # by its tactic, and its weights
        (True, False),  # by its tactic alone
        (False, True),  # an attention, whose name tells nothing
        (False, True),
    ]
    proof = prove_precision(kernels, FP16_GRAPH, "inspector", "image.plan")
    assert (proof.fp16_products, proof.unknown_kernels, proof.unknown_products) == (2, 3, 2)
    with pytest.raises(BackendError, match="fp32 was asked for, and 2 kernels"):
        prove_precision(kernels, FP32_GRAPH, "inspector", "image.plan")


@pytest.mark.parametrize(
    ("tactic", "weights", "kind"),
    [
        ("sm80_xmma_gemm_f16f16_f16f32_f32_tn_n_tilesize128x64x32", None, "half"),
        ("sm50_xmma_cublas_gemvx_f16f16_f32", None, "half"),
        ("ampere_h16816gemm_256x128_ldg8_nn_v1", None, "half"),
        ("sm80_xmma_gemm_f32f32_f32f32_f32_nn_n_tilesize32x32x8", "Half", "float"),
        ("ampere_sgemm_128x64_nn", None, "float"),
        ("sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32_nchw", "Int8", "int8"),
        ("sm80_xmma_gemm_i8f32_i8i32_f32_tn", None, "int8"),
        ("sm80_xmma_gemm_f16f16_f16f16_f16_tn_n", "Int8", "half"),  # stored in INT8, multiplied in FP16
        ("__myl_Fc_0x1f", "Half", "half"),
        ("__myl_Fc_0x1f", "Float", "float"),
        ("__myl_Fc_0x1f", None, None),
        ("", None, None),
    ],
)
def test_what_a_layer_multiplies_is_told_by_its_tactic_and_else_by_its_weights(
    tactic: str, weights: str | None, kind: str | None
) -> None:
    kernel = untold("m1", tactic, weights)
    assert kernel.dtypes == ({kind} if kind else frozenset())
    assert kernel.unknown is (kind is None)
    assert kernel.int8_inputs == (kind == "int8")


def test_an_fp32_product_is_found_though_the_types_are_not_told() -> None:
    wanted = GraphPrecision("fp16", frozenset({"m1", "m2"}), 1)
    kernels = (untold("m1", "ampere_h16816gemm", None), untold("m2", "", "Float"))
    with pytest.raises(BackendError, match=r"has 1 products in FP32: m2"):
        prove_precision(kernels, wanted, "inspector", "image.plan")


class FakeInspector:
    """Tells types where it has a context with shapes, as that of TensorRT 10.3 does."""

    def __init__(self) -> None:
        self.execution_context: FakeShapes | None = None

    def get_engine_information(self, form: str) -> str:
        assert form == "JSON"
        context = self.execution_context
        known = context is not None and len(context.shapes) == 2
        text = (INSPECTOR / f"10.3-{'context' if known else 'no-context'}.json").read_text(encoding="utf-8")
        return text if context is None else text.replace("node_linear", f"node_linear_{context.profile}")


class FakeShapes:
    """An execution context of which only the shapes are wanted."""

    def __init__(self) -> None:
        self.profile: int | None = None
        self.shapes: dict[str, tuple[int, ...]] = {}

    def set_optimization_profile_async(self, number: int, stream: int) -> bool:
        assert stream
        self.profile = number
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert self.profile is not None
        self.shapes[name] = shape
        return shape[0] <= 32


class FakeInspected:
    """An engine, to be inspected."""

    def __init__(self) -> None:
        self.contexts: list[FakeShapes] = []

    def create_engine_inspector(self) -> FakeInspector:
        return FakeInspector()

    def create_execution_context(self, strategy: str) -> FakeShapes:
        assert strategy == "USER_MANAGED"
        self.contexts.append(FakeShapes())
        return self.contexts[-1]


def test_the_inspector_is_asked_with_each_profiles_usual_shapes_set() -> None:
    memory, engine = FakeMemory(), FakeInspected()
    profiles = [dict.fromkeys(("input_ids", "attention_mask"), (8, length)) for length in (32, 64)]
    texts = inspect_engine(fake_library(), engine, profiles, memory)
    assert [context.shapes for context in engine.contexts] == profiles
    for number, text in enumerate(texts):
        kernels = inspected_kernels(text)
        assert not any(kernel.unknown for kernel in kernels)
        assert kernels[2].nodes == (f"node_linear_{number}",)
    assert memory.held == 0
    with pytest.raises(BackendError, match=r"could not set input_ids to \[64, 32\]"):
        inspect_engine(fake_library(), engine, [{"input_ids": (64, 32)}], memory)
    assert memory.held == 0

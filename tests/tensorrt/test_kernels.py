"""Reading an engine back: the inspector in its ways of writing, the proof of precision, the memory told before."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tbps_infer.errors import BackendError
from tbps_infer.model_facts import Precision
from tbps_infer.tensorrt.kernels import Kernel, inspected_kernels, rtx_programs
from tbps_infer.tensorrt.precision_proof import GraphPrecision, PrecisionProof, prove_precision


def tensor(name: str, kind: str, key: str = "Format/Datatype") -> dict[str, Any]:
    return {"Name": name, "Location": "Device", "Dimensions": [8, 64, 768], key: kind}


def layer(name: str, kinds: tuple[str, str], nodes: str, tactic: str = "", key: str = "Format/Datatype") -> Any:
    return {
        "Name": name,
        "LayerType": "kgen",
        "Inputs": [tensor("a", kinds[0], key)],
        "Outputs": [tensor("b", kinds[1], key)],
        "TacticName": tactic,
        "StreamId": 0,
        "Metadata": nodes,
    }


@pytest.mark.parametrize(
    ("half", "single", "key"),
    [
        ("Half", "Float", "Format/Datatype"),  # without an execution context
        ("Channel major FP16 format where channel % 8 == 0", "Row major linear FP32", "Format/Datatype"),  # with one
        ("Float16", "Float32", "Datatype"),
    ],
)
@pytest.mark.parametrize("tensors", ["Bindings", "I/O Tensors"])  # up to 10, and from 11 on
def test_the_inspectors_ways_of_writing_are_read(half: str, single: str, key: str, tensors: str) -> None:
    information = json.dumps(
        {
            "Layers": [
                layer("__myl_Cast_myl0_0", (single, half), "[ONNX Layer: cast_x]", "__myl_Cast_0x1f", key),
                layer(
                    "_gemm_mha_v2_myl0_1", (half, half), "[ONNX Layer: scores]\u001e[ONNX Layer: softmax]", "", key
                ),
                layer("__myl_Norm_myl0_2", (single, single), "[ONNX Layer: norm]", "", key),
            ],
            tensors: ["pixels", "image_embedding"],
        }
    )
    kernels = inspected_kernels(information)
    assert [kernel.fp16 for kernel in kernels] == [True, True, False]
    assert [kernel.fused_attention for kernel in kernels] == [False, True, False]
    assert [kernel.nodes for kernel in kernels] == [("cast_x",), ("scores", "softmax"), ("norm",)]
    assert kernels[2].dtypes == {"float"}


@pytest.mark.parametrize("information", ['{"Layers": ["conv1", "conv2"]}', "{}", "Layer(Conv): x", '{"Layers": 3}'])
def test_an_engine_without_details_proves_nothing(information: str) -> None:
    with pytest.raises(BackendError, match="gives no layers with their types"):
        inspected_kernels(information)


def test_a_plan_that_is_not_as_known_proves_nothing() -> None:
    for content in (b"", b"ftrt" + bytes(1000), b"header {\n  version = 5\n  accelerators={*}\n}\nmain {\n}\n"):
        with pytest.raises(BackendError, match="precision is not proven"):
            rtx_programs(content)


def kernel(nodes: str, *dtypes: str, name: str = "k", int8_inputs: int = 0) -> Kernel:
    return Kernel(name, tuple(nodes.split()), frozenset(dtypes), int8_inputs)


def prove(kernels: list[Kernel], precision: Precision, products: str = "m1 m2") -> PrecisionProof:
    wanted = GraphPrecision(precision, frozenset(products.split()) if precision == "fp16" else frozenset(), 1)
    return prove_precision(kernels, wanted, "plan", "text-32.plan")


def test_a_proof_counts_products_kernels_and_attentions() -> None:
    kernels = [
        kernel("m1 add", "half", "float"),
        kernel("m2", "half", name="_gemm_mha_v2"),
        kernel("norm", "float"),
        kernel("size", "int64"),
    ]
    proof = prove(kernels, "fp16", "m1 m2 constant")
    assert proof == PrecisionProof("plan", 4, 2, 2, 0, 0, 1, 0, 0, 1, 1)
    assert proof.fp16_share == 0.5
    assert PrecisionProof.from_json(json.loads(json.dumps(proof.to_json()))) == proof


def test_every_product_must_be_in_the_precision_that_was_asked_for() -> None:
    with pytest.raises(BackendError, match=r"text-32\.plan has 1 products in FP32: m2"):
        prove([kernel("m1", "half"), kernel("m2", "float")], "fp16")
    with pytest.raises(BackendError, match="has 2 products in FP32: all of them"):
        prove([kernel("other", "float")], "fp16")
    with pytest.raises(BackendError, match="fp32 was asked for, and 1 kernels"):
        prove([kernel("m1", "half"), kernel("m2", "float")], "fp32")
    with pytest.raises(BackendError, match="is not proven"):
        prove([kernel("", "half")], "fp16")
    with pytest.raises(BackendError, match="name 1 of the graph's 3 FP16 products"):
        prove([kernel("m1", "half")], "fp16", "m1 m2 m3")


INT8_GRAPH = GraphPrecision("int8", frozenset({"scores"}), 1, frozenset({"m1", "m2"}))


def test_a_proof_of_int8_wants_both_factors_in_int8() -> None:
    """A weight that is stored in INT8, dequantised and multiplied in FP16 is no INT8 product."""
    right = [
        kernel("m1", "int8", "float", int8_inputs=2),
        kernel("m2", "int8", "float", int8_inputs=2),
        kernel("m1 add", "half", "int8"),
        kernel("scores", "half", name="_gemm_mha_v2"),
    ]
    proof = prove_precision(right, INT8_GRAPH, "plan", "text-32.plan")
    assert proof == PrecisionProof("plan", 4, 2, 1, 3, 2, 0, 0, 0, 1, 1)
    for wrong in (kernel("m2", "int8", "half", int8_inputs=1), kernel("m2", "half"), kernel("m2", "float")):
        with pytest.raises(BackendError, match=r"INT8 was asked for, .* has 1 products in FP32 or FP16: m2"):
            prove_precision([right[0], wrong, *right[2:]], INT8_GRAPH, "plan", "text-32.plan")
    with pytest.raises(BackendError, match=r"FP16 was asked for, .* has 1 products in FP32: scores"):
        prove_precision([*right[:3], kernel("scores", "float")], INT8_GRAPH, "plan", "text-32.plan")
    with pytest.raises(BackendError, match="name 1 of the graph's 3 INT8 products"):
        more = replace(INT8_GRAPH, int8_products=frozenset({"m1", "m3", "m4"}))
        prove_precision([right[0], right[3]], more, "plan", "text-32.plan")


def test_the_inspector_tells_int8_by_what_a_layer_reads() -> None:
    """Its layers have their weights as attributes, so that one INT8 input is what INT8 products read."""
    layers = [
        {
            "Name": "conv",
            "Metadata": "[ONNX Layer: m1][ONNX Layer: m2]",
            "Inputs": [{"Name": "x", "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"}],
            "Outputs": [{"Name": "y", "Format/Datatype": "Row major linear FP32"}],
        },
        {
            "Name": "mha",
            "Metadata": "[ONNX Layer: scores]",
            "Inputs": [{"Name": "y", "Format/Datatype": "Row major linear FP16 format"}],
            "Outputs": [{"Name": "z", "Format/Datatype": "Row major linear Int8 format"}],
        },
    ]
    kernels = inspected_kernels(json.dumps({"Layers": layers}))
    assert [kernel.int8_inputs for kernel in kernels] == [1, 0]
    assert kernels[1].dtypes == {"half", "int8"}
    proof = prove_precision(kernels, INT8_GRAPH, "inspector", "text-32.plan")
    assert (proof.int8_kernels, proof.int8_products, proof.fp16_products) == (2, 2, 1)
    with pytest.raises(BackendError, match="INT8 was asked for"):
        prove_precision(kernels, INT8_GRAPH, "plan", "text-32.plan")


def test_the_memory_told_is_what_is_alive_at_the_fullest_moment(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    from tbps_infer.export.engines.activations import predicted_activation_bytes

    helper, kind = onnx.helper, onnx.TensorProto
    nodes = [
        helper.make_node("Cast", ["x"], ["a"], to=kind.FLOAT),  # 1 × 4 bytes each
        helper.make_node("Concat", ["a", "a"], ["b"], axis=1),  # 2
        helper.make_node("Shape", ["x"], ["size"], start=0, end=1),
        helper.make_node("Concat", ["size", "rest"], ["shape"], axis=0),
        helper.make_node("Reshape", ["b", "shape"], ["c"]),  # b's own memory
        helper.make_node("Concat", ["c", "c"], ["d"], axis=1),  # 4: with b alive, 6
        helper.make_node("DequantizeLinear", ["weight", "scale"], ["folded"]),  # a build computes it
        helper.make_node("Cast", ["d"], ["e"], to=kind.FLOAT16),  # 2: with d alive, 6
        helper.make_node("ReduceMax", ["e"], ["y"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind.UINT8, ["n", 100])],
        [helper.make_tensor_value_info("y", kind.FLOAT16, [])],
        [
            onnx.numpy_helper.from_array(np.array([-1]), "rest"),
            onnx.numpy_helper.from_array(np.zeros((5000, 100), np.int8), "weight"),
            onnx.numpy_helper.from_array(np.float32(1), "scale"),
        ],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "g.onnx"
    )
    for size in (1, 7, 32):
        found = predicted_activation_bytes(tmp_path / "g.onnx", {"x": (size, 100)})
        assert found == pytest.approx(6 * 100 * size * 4, abs=24)  # and at most three numbers of shapes


@pytest.mark.parametrize(
    ("operator", "domain", "said"),
    [
        ("NonZero", "", "the shape of a depends on its input's numbers"),
        ("Telepathy", "org.example", "the shape of a cannot be inferred"),
    ],
)
def test_memory_that_cannot_be_predicted_is_not_made_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, operator: str, domain: str, said: str
) -> None:
    onnx = pytest.importorskip("onnx")
    from tbps_infer.export.engines.activations import predicted_activation_bytes

    helper, kind = onnx.helper, onnx.TensorProto
    graph = helper.make_graph(
        [
            helper.make_node(operator, ["x"], ["a"], domain=domain),
            helper.make_node("ReduceMax", ["a"], ["y"], keepdims=0),
        ],
        "g",
        [helper.make_tensor_value_info("x", kind.FLOAT, ["n", 100])],
        [helper.make_tensor_value_info("y", kind.INT64, [])],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("org.example", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "g.onnx")
    caplog.set_level("INFO")
    assert predicted_activation_bytes(tmp_path / "g.onnx", {"x": (2, 100)}) is None
    assert said in caplog.text
    assert predicted_activation_bytes(tmp_path / "g.onnx", {"other": (2, 100)}) is None
    assert predicted_activation_bytes(tmp_path / "g.onnx", {"x": (2, 3, 100)}) is None


def test_an_fp32_graph_is_not_refused_because_its_types_cannot_be_inferred(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    from tbps_infer.errors import VerificationError
    from tbps_infer.export.engines.source_graphs import graph_precision

    helper, kind = onnx.helper, onnx.TensorProto
    graph = helper.make_graph(
        [
            helper.make_node("Telepathy", ["x"], ["a"], domain="org.example"),
            helper.make_node("MatMul", ["a", "a"], ["y"], name="product"),
        ],
        "g",
        [helper.make_tensor_value_info("x", kind.FLOAT, ["n", 100])],
        [helper.make_tensor_value_info("y", kind.FLOAT, ["n", 100])],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("org.example", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "g.onnx")
    assert graph_precision(tmp_path / "g.onnx", "fp32") == GraphPrecision("fp32", frozenset(), 0)
    with pytest.raises(VerificationError, match="type of the graph's value a"):
        graph_precision(tmp_path / "g.onnx", "fp16")

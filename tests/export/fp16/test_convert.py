"""The pass from FP32 to mixed precision, rule by rule, on small graphs written for each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx_graphs import run_graph

from tbps_infer.errors import UsageError, VerificationError
from tbps_infer.export.fp16.convert import MixedPrecisionOptions, convert_file, convert_model
from tbps_infer.export.fp16.emulation import emulated

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

RULES = MixedPrecisionOptions()
MEASURED = MixedPrecisionOptions(auto_islands=True, threads=1)


def model(nodes: Sequence[Any], stored: dict[str, NDArray[Any]], *, size: int = 4, inputs: Sequence[Any] = ()) -> Any:
    """A graph from ``x`` float32 ``[n, size]`` to ``y`` float32, with these nodes and stored tensors."""
    helper, kind = onnx.helper, onnx.TensorProto
    given = list(inputs) or [helper.make_tensor_value_info("x", kind.FLOAT, ["n", size])]
    graph = helper.make_graph(
        list(nodes),
        "test",
        given,
        [helper.make_tensor_value_info("y", kind.FLOAT, ["n", None])],
        [onnx.numpy_helper.from_array(array, name) for name, array in stored.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def node(operator: str, inputs: str, output: str, **attributes: Any) -> Any:
    return onnx.helper.make_node(operator, inputs.split(), [output], name=f"n_{output}", **attributes)


def casts(graph: Any) -> list[tuple[str, str]]:
    """(from the operator that gives the value, to FP16 or FP32) of every cast, in order."""
    givers = {name: entry.op_type for entry in graph.graph.node for name in entry.output}
    names = {onnx.TensorProto.FLOAT16: "fp16", onnx.TensorProto.FLOAT: "fp32"}
    return [
        (givers.get(entry.input[0], "input"), names[entry.attribute[0].i])
        for entry in graph.graph.node
        if entry.op_type == "Cast"
    ]


def precisions(graph: Any) -> dict[str, str]:
    """The precision of each node that was there before, by the node's name."""
    from tbps_infer.export.graph_view import element_types

    types = element_types(graph)
    half = onnx.TensorProto.FLOAT16
    return {
        entry.name: "fp16" if any(types[name] == half for name in entry.output) else "fp32"
        for entry in graph.graph.node
        if entry.op_type != "Cast"
    }


def eye(size: int = 4, scale: float = 1.0) -> NDArray[np.float32]:
    return (np.eye(size) * scale).astype(np.float32)


ROW = np.array([[1, 2, 3, 4]], np.float32)


def test_emulation_rounds_and_overflows_as_numpy_halves_do_where_onnxruntime_alone_does_not() -> None:
    nodes = [node("MatMul", "x w", "a"), node("MatMul", "a w", "b"), node("MatMul", "b v", "y")]
    graph, _ = convert_model(model(nodes, {"w": eye(scale=300), "v": eye(scale=2**-9)}), RULES)
    given = np.array([[0.1, 1.0, 10.0, -10.0]], np.float32)
    expected = given.astype(np.float16)
    with np.errstate(over="ignore"):
        for factor in (300, 300, 2**-9):
            expected = (expected.astype(np.float32) * np.float32(factor)).astype(np.float16)
    assert list(np.isinf(expected[0])) == [False, True, True, True]
    finite = run_graph(emulated(graph), {"x": given})
    # An overflowed sum meets 0 × inf in the products of its row, so all of the row is lost.
    assert not np.isfinite(finite).all()
    alone = run_graph(emulated(graph), {"x": np.array([[0.1, 0, 0, 0]], np.float32)})
    assert alone[0, 0] == expected[0, 0]
    assert np.isfinite(run_graph(graph, {"x": given})).all(), (
        "ONNX Runtime computes FP16 on the CPU now: test it directly"
    )


def test_products_are_fp16_and_layer_norm_is_an_island_between_two_casts() -> None:
    nodes = [
        node("MatMul", "x w", "a"),
        node("LayerNormalization", "a scale shift", "b"),
        node("MatMul", "b w", "c"),
        node("Add", "c b", "y"),
    ]
    stored = {"w": eye(), "scale": np.ones(4, np.float32), "shift": np.zeros(4, np.float32)}
    graph, report = convert_model(model(nodes, stored), RULES)
    assert precisions(graph) == {"n_a": "fp16", "n_b": "fp32", "n_c": "fp16", "n_y": "fp16"}
    # b is read twice and cast once.
    assert casts(graph) == [
        ("input", "fp16"),
        ("MatMul", "fp32"),
        ("LayerNormalization", "fp16"),
        ("Add", "fp32"),
    ]
    assert (report.fp16_nodes, report.fp32_nodes, report.casts, report.rounded_tensors) == (3, 1, 4, 1)
    kinds = {tensor.name: tensor.data_type for tensor in graph.graph.initializer}
    assert kinds["scale"] == kinds["shift"] == onnx.TensorProto.FLOAT
    deviations = ROW - ROW.mean()
    normed = deviations / np.sqrt((deviations**2).mean() + 1e-5)
    np.testing.assert_allclose(run_graph(emulated(graph), {"x": ROW}), 2 * normed, rtol=2**-10)


def test_a_l2_norm_stays_in_fp32_with_its_squares_and_what_is_divided_by_it() -> None:
    nodes = [
        node("MatMul", "x w", "a"),
        node("Mul", "a a", "square"),
        node("ReduceSum", "square last", "sum", keepdims=1),
        node("Sqrt", "sum", "root"),
        node("Reciprocal", "root", "inverse"),
        node("Mul", "a inverse", "unit"),
        node("Concat", "unit unit", "y", axis=1),
    ]
    stored = {"w": eye(scale=1000), "last": np.array([1])}
    graph, report = convert_model(model(nodes, stored), RULES)
    assert [name for name, kind in precisions(graph).items() if kind == "fp16"] == ["n_a"]
    assert casts(graph) == [("input", "fp16"), ("MatMul", "fp32")]
    assert report.fp16_nodes == 1
    unit = ROW / np.linalg.norm(ROW)  # squares of up to 16 million overflow FP16
    np.testing.assert_allclose(run_graph(emulated(graph), {"x": ROW}), np.hstack([unit, unit]), rtol=2e-7)


def test_moves_of_numbers_follow_what_surrounds_them() -> None:
    nodes = [
        node("LayerNormalization", "x scale", "a"),
        node("Transpose", "a", "b", perm=[1, 0]),
        node("MatMul", "w b", "c"),
        node("Transpose", "c", "d", perm=[1, 0]),
        node("LayerNormalization", "d scale", "e"),
        node("Transpose", "e", "f", perm=[1, 0]),
        node("Transpose", "f", "g", perm=[1, 0]),
        node("LayerNormalization", "g scale", "y"),
    ]
    graph, _ = convert_model(model(nodes, {"w": eye(), "scale": np.ones(4, np.float32)}), RULES)
    # Cast before the transposition that a product reads, after the one that a product feeds, and not at all between
    # two normalisations.
    assert casts(graph) == [("LayerNormalization", "fp16"), ("Transpose", "fp32")]
    assert precisions(graph)["n_b"] == precisions(graph)["n_d"] == "fp16"
    assert precisions(graph)["n_f"] == precisions(graph)["n_g"] == "fp32"


def test_arithmetic_between_two_fp32_neighbours_joins_them() -> None:
    nodes = [
        node("LayerNormalization", "x scale", "a"),
        node("Mul", "a half", "b"),
        node("Relu", "b", "c"),
        node("LayerNormalization", "c scale", "y"),
    ]
    graph, report = convert_model(
        model(nodes, {"half": np.array([0.5], np.float32), "scale": np.ones(4, np.float32)}), RULES
    )
    assert casts(graph) == []
    assert report.fp16_nodes == 0


def test_pixels_are_normalised_in_fp32_and_rounded_once() -> None:
    kind = onnx.TensorProto
    pixels = onnx.helper.make_tensor_value_info("x", kind.UINT8, ["n", 4])
    nodes = [
        node("Cast", "x", "floats", to=kind.FLOAT),
        node("Mul", "floats scale", "scaled"),
        node("Add", "scaled shift", "normalised"),
        node("MatMul", "normalised w", "y"),
    ]
    scale, shift = np.array([1 / (255 * 0.229)], np.float32), np.array([-0.485 / 0.229], np.float32)
    graph, _ = convert_model(model(nodes, {"w": eye(), "scale": scale, "shift": shift}, inputs=[pixels]), RULES)
    assert casts(graph) == [("input", "fp32"), ("Add", "fp16"), ("MatMul", "fp32")]
    given = np.array([[0, 1, 128, 255]], np.uint8)
    expected = (given.astype(np.float32) * scale + shift).astype(np.float16)
    np.testing.assert_array_equal(run_graph(emulated(graph), {"x": given}), expected.astype(np.float32))


def test_a_mask_of_the_floor_stays_finite_and_masks() -> None:
    kind = onnx.TensorProto
    inputs = [
        onnx.helper.make_tensor_value_info("x", kind.FLOAT, ["n", 4]),
        onnx.helper.make_tensor_value_info("mask", kind.INT32, ["n", 4]),
    ]
    nodes = [
        node("MatMul", "x w", "scores"),
        node("Cast", "mask", "floats", to=kind.FLOAT),
        node("Sub", "one floats", "padded"),
        node("Mul", "padded floor", "added"),
        node("Add", "scores added", "masked"),
        node("Softmax", "masked", "y", axis=-1),
    ]
    stored = {"w": eye(), "one": np.float32(1), "floor": np.float32(-3e4)}
    graph, report = convert_model(
        model(nodes, stored, inputs=inputs), MEASURED, [{"x": ROW, "mask": np.array([[1, 1, 0, 0]], np.int32)}]
    )
    assert report.islands == {}
    assert report.largest_activation is not None
    assert 29_990 < report.largest_activation[1] < 30_010
    for mask in ([1, 1, 0, 0], [0, 0, 0, 0]):
        result = run_graph(emulated(graph), {"x": ROW, "mask": np.array([mask], np.int32)})
        assert np.isfinite(result).all()
        assert result.sum() == pytest.approx(1, abs=2**-9)
    kept = run_graph(emulated(graph), {"x": ROW, "mask": np.array([[1, 1, 0, 0]], np.int32)})
    np.testing.assert_allclose(kept[0], [1 / (1 + np.e), np.e / (1 + np.e), 0, 0], atol=2**-11)


OVERFLOW = {"encoder.weight": eye(scale=70_000), "w": eye(scale=1e-5)}


def overflowing_model() -> Any:
    nodes = [node("MatMul", "x encoder.weight", "a"), node("MatMul", "a w", "y")]
    return model(nodes, OVERFLOW)


def test_a_stored_tensor_that_overflows_is_an_error_that_names_it() -> None:
    with pytest.raises(VerificationError, match=r"encoder\.weight \(up to 7e\+04, read by MatMul n_a\)") as caught:
        convert_model(overflowing_model(), RULES)
    assert "--keep-fp32 'encoder.weight'" in caught.value.hint


def test_the_largest_number_that_rounds_to_a_finite_half_is_accepted() -> None:
    convert_model(
        model(
            [node("Mul", "x w", "a"), node("MatMul", "a v", "y")], {"w": np.array([65519.9], np.float32), "v": eye()}
        ),
        RULES,
    )
    with pytest.raises(VerificationError, match="w "):
        convert_model(
            model(
                [node("MatMul", "x v", "a"), node("Mul", "a w", "y")],
                {"w": np.array([65520], np.float32), "v": eye()},
            ),
            RULES,
        )


@pytest.mark.parametrize("pattern", ["encoder.*", "n_a", "a", "MatMul"])
def test_a_pattern_keeps_what_it_names_in_fp32(pattern: str) -> None:
    graph, report = convert_model(overflowing_model(), MixedPrecisionOptions(keep_fp32=(pattern,)))
    assert report.islands["MatMul n_a"] == f"named by the pattern {pattern}"
    assert precisions(graph)["n_a"] == "fp32"
    assert (precisions(graph)["n_y"] == "fp32") == (pattern == "MatMul")


def test_a_biass_name_stands_for_its_whole_layer() -> None:
    """Exporters transpose a linear layer's weight, and the copy has no name that a user would know."""
    nodes = [
        node("MatMul", "x val_1", "a"),
        node("Add", "a decoder.query.bias", "b"),
        node("MatMul", "b val_2", "c"),
        node("Add", "c encoder.query.bias", "y"),
    ]
    bias = np.ones(4, np.float32)
    stored = {"val_1": eye(), "val_2": eye(), "decoder.query.bias": bias, "encoder.query.bias": 2 * bias}
    graph, _ = convert_model(model(nodes, stored), MixedPrecisionOptions(keep_fp32=("decoder*",)))
    assert precisions(graph) == {"n_a": "fp32", "n_b": "fp32", "n_c": "fp16", "n_y": "fp16"}


def test_a_pattern_that_names_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="'decoder"):
        convert_model(overflowing_model(), MixedPrecisionOptions(keep_fp32=("decoder*",)))


def test_measured_islands_protect_what_comes_near_the_limit_and_nothing_else() -> None:
    nodes = [
        node("MatMul", "x w", "before"),
        node("MatMul", "before up", "large"),
        node("Mul", "large down", "small"),
        node("MatMul", "small w", "y"),
    ]
    graph = model(nodes, {"w": eye(), "up": eye(scale=20_000), "down": np.array([1e-4], np.float32)})
    plain, _ = convert_model(graph, RULES)
    assert not np.isfinite(run_graph(emulated(plain), {"x": ROW})).all()
    protected, report = convert_model(graph, MEASURED, [{"x": ROW}])
    assert report.islands == {"MatMul n_large": "large reaches 8e+04", "Mul n_small": "large reaches 8e+04"}
    assert report.largest_activation == ("large", 80_000.0)
    assert [name for name, kind in precisions(protected).items() if kind == "fp16"] == ["n_before", "n_y"]
    np.testing.assert_allclose(run_graph(emulated(protected), {"x": ROW}), 2 * ROW, rtol=2**-10)


def test_measuring_takes_the_largest_over_all_batches_and_sees_stored_tensors() -> None:
    batches = [{"x": ROW}, {"x": -10 * ROW}, {"x": 2 * ROW}]
    _, report = convert_model(overflowing_model(), MEASURED, batches)
    assert report.largest_activation is not None
    assert report.largest_activation[0] == "a"
    assert report.largest_activation[1] == pytest.approx(2_800_000)
    # The second product reads what the first gives, so both are protected.
    assert set(report.islands) == {"MatMul n_a", "MatMul n_y"}
    with pytest.raises(VerificationError, match="nothing to measure"):
        convert_model(overflowing_model(), MEASURED, [])


def test_squares_below_fp16s_least_number_survive_in_the_tail() -> None:
    nodes = [
        node("MatMul", "x w", "a"),
        node("Pow", "a two", "square"),
        node("ReduceMean", "square last", "mean", keepdims=1),
        node("Add", "mean tiny", "padded"),
        node("Sqrt", "padded", "root"),
        node("Div", "a root", "y"),
    ]
    stored = {"w": eye(scale=1e-4), "two": np.float32(2), "last": np.array([1]), "tiny": np.float32(1e-12)}
    graph, _ = convert_model(model(nodes, stored), RULES)
    expected = ROW / np.sqrt((ROW**2).mean())
    np.testing.assert_allclose(run_graph(emulated(graph), {"x": ROW}), expected, rtol=1e-3)


def test_a_value_needed_in_both_precisions_is_stored_in_both_and_flushed_numbers_are_counted() -> None:
    shared = np.array([1.5, 1e-9, 2.0, 3.0], np.float32)
    nodes = [node("MatMul", "x w", "a"), node("Add", "a shared", "b"), node("LayerNormalization", "b shared", "y")]
    graph, report = convert_model(model(nodes, {"w": eye(), "shared": shared}), RULES)
    kinds = {tensor.name: tensor.data_type for tensor in graph.graph.initializer}
    assert kinds["shared"] == onnx.TensorProto.FLOAT
    assert kinds["shared_fp16"] == onnx.TensorProto.FLOAT16
    assert report.flushed_share == 1 / 20


def test_constant_nodes_are_stored_and_unknown_operators_stay_in_fp32() -> None:
    constant = onnx.helper.make_node("Constant", [], ["w"], value=onnx.numpy_helper.from_array(eye(), "w"))
    nodes = [constant, node("MatMul", "x w", "a"), node("Mish", "a", "b"), node("MatMul", "b w", "y")]
    graph, _ = convert_model(model(nodes, {}), RULES)
    assert precisions(graph) == {"n_a": "fp16", "n_b": "fp32", "n_y": "fp16"}
    halves = ROW.astype(np.float32)
    expected = halves * np.tanh(np.log1p(np.exp(halves)))
    np.testing.assert_allclose(run_graph(emulated(graph), {"x": ROW}), expected, rtol=2**-9)


def test_a_graph_output_that_other_nodes_read_keeps_its_name_and_type() -> None:
    graph = model([node("MatMul", "x w", "y"), node("MatMul", "y w", "z")], {"w": eye(scale=2)})
    graph.graph.output.append(onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, ["n", None]))
    converted, _ = convert_model(graph, RULES)
    assert casts(converted) == [("input", "fp16"), ("MatMul", "fp32"), ("MatMul", "fp32")]
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(converted.SerializeToString(), options, providers=["CPUExecutionProvider"])
    first, second = session.run(["y", "z"], {"x": ROW})
    np.testing.assert_array_equal(first, 2 * ROW)
    np.testing.assert_array_equal(second, 4 * ROW)


def test_graphs_that_are_not_plain_fp32_are_refused() -> None:
    half, _ = convert_model(model([node("MatMul", "x w", "y")], {"w": eye()}), RULES)
    with pytest.raises(VerificationError, match="only FP32 graphs"):
        convert_model(half, RULES)
    body = onnx.helper.make_graph([], "body", [], [])
    branch = onnx.helper.make_node("If", ["x"], ["y"], then_branch=body, else_branch=body)
    with pytest.raises(VerificationError, match="control flow"):
        convert_model(model([branch], {}), RULES)


def test_a_file_is_converted_checked_and_the_same_each_time(tmp_path: Path) -> None:
    nodes = [node("MatMul", "x w", "a"), node("LayerNormalization", "a scale", "y")]
    source = model(nodes, {"w": eye(), "scale": np.ones(4, np.float32)})
    onnx.save(source, tmp_path / "g.onnx")
    for name in ("first.onnx", "second.onnx"):
        convert_file(tmp_path / "g.onnx", tmp_path / name, RULES)
    assert (tmp_path / "first.onnx").read_bytes() == (tmp_path / "second.onnx").read_bytes()
    order = [entry.op_type for entry in onnx.load(tmp_path / "first.onnx").graph.node]
    assert order == ["Cast", "MatMul", "Cast", "LayerNormalization"]


def test_external_weights_stay_external_and_nothing_is_left_after_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    big = np.full((64, 64), 0.5, np.float32)
    source = model([node("MatMul", "x w", "y")], {"w": big}, size=64)
    onnx.save(source, tmp_path / "g.onnx", save_as_external_data=True, location="g.onnx.data", size_threshold=0)
    convert_file(tmp_path / "g.onnx", tmp_path / "h.onnx", RULES)
    assert (tmp_path / "h.onnx.data").stat().st_size == big.size * 2
    stored = onnx.numpy_helper.to_array(onnx.load(tmp_path / "h.onnx").graph.initializer[0])
    np.testing.assert_array_equal(stored, big.astype(np.float16))

    def fail(*_: object, **__: object) -> None:
        raise onnx.checker.ValidationError("not today")

    monkeypatch.setattr(onnx.checker, "check_model", fail)
    with pytest.raises(VerificationError, match="not today"):
        convert_file(tmp_path / "g.onnx", tmp_path / "i.onnx", RULES)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["g.onnx", "g.onnx.data", "h.onnx", "h.onnx.data"]


def test_a_product_can_be_added_up_in_fp32_between_halves() -> None:
    """Cast, MatMul, Cast: the factors are rounded to FP16 as ever, and so is the sum, once."""
    nodes = [node("MatMul", "x w", "a"), node("Relu", "a", "b"), node("MatMul", "b w", "c"), node("Relu", "c", "y")]
    rng = np.random.default_rng(3)
    fp32 = model(nodes, {"w": rng.normal(size=(4, 4)).astype(np.float32)})
    options = MixedPrecisionOptions(fp32_accumulation=("n_c",))
    graph, report = convert_model(fp32, options)
    assert precisions(graph) == {"n_a": "fp16", "n_b": "fp16", "n_c": "fp32", "n_y": "fp16"}
    assert (report.fp32_accumulations, report.fp16_nodes, report.rounded_tensors) == (1, 4, 1)
    assert casts(graph) == [
        ("input", "fp16"),
        ("Relu", "fp32"),
        ("input", "fp32"),
        ("MatMul", "fp16"),
        ("Relu", "fp32"),
    ]
    usual, _ = convert_model(fp32, RULES)
    given = rng.normal(size=(8, 4)).astype(np.float32)
    # The emulation adds up in FP32 anyway, so the two must agree to the last bit there.
    np.testing.assert_array_equal(run_graph(emulated(graph), {"x": given}), run_graph(emulated(usual), {"x": given}))
    onnx.checker.check_model(graph, full_check=True)
    everywhere, report = convert_model(fp32, MixedPrecisionOptions(fp32_accumulation=("MatMul",)))
    assert report.fp32_accumulations == 2
    np.testing.assert_array_equal(
        run_graph(emulated(everywhere), {"x": given}), run_graph(emulated(usual), {"x": given})
    )
    with pytest.raises(UsageError, match="'Relu' matches no product"):
        convert_model(fp32, MixedPrecisionOptions(fp32_accumulation=("Relu",)))


def test_a_product_that_stays_in_fp32_is_not_widened() -> None:
    fp32 = model([node("MatMul", "x w", "y")], {"w": eye()})
    options = MixedPrecisionOptions(keep_fp32=("n_y",), fp32_accumulation=("n_y",))
    graph, report = convert_model(fp32, options)
    assert (report.fp32_accumulations, casts(graph)) == (0, [])

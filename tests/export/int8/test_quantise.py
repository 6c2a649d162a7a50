"""INT8 graphs: their numbers against numpy, their form, and TensorRT's parser and builder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx_graphs import run_graph

from tbps_infer.errors import VerificationError
from tbps_infer.export.graph_view import GraphView
from tbps_infer.export.int8.islands import find_islands
from tbps_infer.export.int8.quantise import (
    embedding_tables,
    layers_of,
    quantise_graph,
    quantised_inputs,
    symmetric_weight,
)
from tbps_infer.export.int8.ranges import BINS, METHODS, Histogram, RangeMethod, clips, measure_histograms
from tbps_infer.export.int8.signed import signed_graph
from tbps_infer.model_facts import Branch
from tbps_infer.runners.onnxruntime_runner import products_saturate
from tbps_infer.runners.protocol import Feeds

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")


def feeds_of(branch: Branch, count: int = 4) -> Feeds:
    rng = np.random.default_rng(3)
    if branch == "image":
        return {"pixels": rng.integers(0, 256, (count, 96, 32, 3), dtype=np.uint8)}
    mask = np.ones((count, 12), np.int32)
    mask[0, 7:] = 0
    return {"input_ids": rng.integers(0, 300, (count, 12), dtype=np.int32), "attention_mask": mask}


def quantised(view: GraphView, feeds: Feeds, method: RangeMethod = "max") -> tuple[Any, dict[str, float]]:
    layers, tables = set(layers_of(view)), set(embedding_tables(view))
    names = sorted(set(quantised_inputs(view, layers).values()))
    amax = clips(measure_histograms(view, names, [feeds], threads=1), method)
    return quantise_graph(view, layers, tables, amax), amax


@pytest.fixture(scope="module", params=["image", "text"])
def branch(request: pytest.FixtureRequest) -> Branch:
    name: Branch = request.param
    return name


@pytest.fixture(scope="module")
def view(tiny_bundle: Path, branch: Branch) -> GraphView:
    return GraphView.open(onnx.load(tiny_bundle / f"{branch}.onnx"))


@pytest.fixture(scope="module")
def graph(view: GraphView, branch: Branch) -> Any:
    return quantised(view, feeds_of(branch))[0]


def stored(graph: Any) -> dict[str, Any]:
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}


def nodes_of(graph: Any, kind: str) -> list[Any]:
    return [node for node in graph.graph.node if node.op_type == kind]


def round_half_even(values: NDArray[Any]) -> NDArray[np.float64]:
    """QuantizeLinear's rounding, written out."""
    down = np.floor(values)
    part = values - down
    up = (part > 0.5) | ((part == 0.5) & (down % 2 == 1))
    result: NDArray[np.float64] = down + up
    return result


def small_graph() -> tuple[Any, dict[str, NDArray[np.float32]]]:
    """Two convolutions of 1x1 with a ReLU between and one after, the input added: all that a residual block has."""
    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.standard_normal((6, 5, 1, 1)).astype(np.float32),
        "b1": rng.standard_normal(6).astype(np.float32),
        "w2": rng.standard_normal((6, 6, 1, 1)).astype(np.float32),
        "b2": rng.standard_normal(6).astype(np.float32),
    }
    make, info = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    nodes = [
        make("Conv", ["x", "w1", "b1"], ["c1"], name="c1"),
        make("Relu", ["c1"], ["r1"], name="r1"),
        make("Conv", ["r1", "w2", "b2"], ["c2"], name="c2"),
        make("Add", ["c2", "r1"], ["a"], name="a"),
        make("Relu", ["a"], ["r2"], name="r2"),
        make("Identity", ["r2"], ["y"], name="y"),
    ]
    shape = ["batch", 5, 2, 2]
    inner = onnx.helper.make_graph(
        nodes,
        "small",
        [info("x", onnx.TensorProto.FLOAT, shape)],
        [info("y", onnx.TensorProto.FLOAT, ["batch", 6, 2, 2])],
        [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return onnx.helper.make_model(inner, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9), weights


def test_a_residual_block_is_what_numpy_says() -> None:
    model, weights = small_graph()
    x = np.random.default_rng(1).standard_normal((7, 5, 2, 2)).astype(np.float32)
    view = GraphView.open(model)
    graph, amax = quantised(view, {"x": x})
    onnx.checker.check_model(graph, full_check=True)
    assert set(amax) == {"x", "r1", "c2", "r2"}, "what feeds a ReLU takes the ReLU's range"

    def rounded(values: NDArray[Any], name: str) -> Any:
        scale = np.float32(amax[name]) / np.float32(127)
        return np.clip(round_half_even(values.astype(np.float32) / scale), -128, 127) * scale

    def conv(values: NDArray[Any], number: int) -> Any:
        weight = weights[f"w{number}"][:, :, 0, 0].astype(np.float64)
        scale = np.abs(weight).max(axis=1, keepdims=True) / 127
        weight = np.clip(round_half_even(weight / scale), -127, 127) * scale
        return np.einsum("oc,nchw->nohw", weight, values) + weights[f"b{number}"][None, :, None, None]

    r1 = np.maximum(rounded(conv(rounded(x, "x"), 1), "r1"), 0)
    total = rounded(conv(r1, 2), "c2") + r1
    wanted = np.maximum(rounded(total, "r2"), 0)
    step = amax["r2"] / 127
    found = run_graph(graph, {"x": x}, plain=True)
    # A sum that lies between two steps to the last bit may go either way: one step, and seldom.
    assert np.abs(found - wanted).max() < 1.01 * step
    assert np.mean(np.abs(found - wanted) > 1e-5) < 0.02
    fused = run_graph(graph, {"x": x})
    assert np.abs(fused - wanted).max() < 2.01 * step, "ONNX Runtime rounds the bias as well"


def test_weights_are_rounded_per_output_channel_and_within_half_a_step(view: GraphView, graph: Any) -> None:
    tensors = stored(graph)
    checked = 0
    for number in layers_of(view):
        node = view.nodes[number]
        name = node.input[1]
        whole, scale = tensors[f"{name}_int8"], tensors[f"{name}_scale"]
        weight = view.values(name)
        axis = 0 if node.op_type in ("Conv", "Gemm") else 1
        assert whole.dtype == np.int8
        assert scale.shape == (weight.shape[axis],)
        assert not tensors[f"{name}_zero"].any()
        shape = [-1 if place == axis else 1 for place in range(weight.ndim)]
        step = scale.reshape(shape)
        assert np.all(np.abs(whole.astype(np.float64) * step - weight) <= step * 0.50001)
        largest = np.abs(whole).max(axis=tuple(place for place in range(weight.ndim) if place != axis))
        assert (largest[np.abs(weight).max(axis=tuple(p for p in range(weight.ndim) if p != axis)) > 0] == 127).all()
        assert name not in tensors, "the FP32 weight is gone"
        checked += 1
    assert checked > 20


def test_activations_are_symmetric_and_biases_stay_fp32(graph: Any) -> None:
    tensors = stored(graph)
    makers = {name: node for node in graph.graph.node for name in node.output}
    for node in nodes_of(graph, "QuantizeLinear"):
        scale, zero = tensors[node.input[1]], tensors[node.input[2]]
        assert (scale.shape, scale.dtype, zero.dtype, int(zero)) == ((), np.float32, np.uint8, 128)
    for node in nodes_of(graph, "Conv") + nodes_of(graph, "Gemm"):
        for name in node.input[2:]:
            assert name not in makers
            assert tensors[name].dtype == np.float32
    from_int8 = {
        makers[node.input[0]].op_type if node.input[0] in makers else str(tensors[node.input[0]].dtype)
        for node in nodes_of(graph, "DequantizeLinear")
    }
    assert from_int8 <= {"QuantizeLinear", "Gather", "int8"}


def test_the_signed_graph_gives_the_same_numbers_without_zero_points(graph: Any, branch: Branch) -> None:
    signed = signed_graph(graph)
    onnx.checker.check_model(signed, full_check=True)
    tensors = stored(signed)
    for node in nodes_of(signed, "QuantizeLinear") + nodes_of(signed, "DequantizeLinear"):
        zero = tensors[node.input[2]]
        assert zero.dtype == np.int8
        assert not zero.any()
    assert not nodes_of(signed, "LeakyRelu")
    made = {node.output[0]: node.op_type for node in signed.graph.node}
    relus = nodes_of(signed, "Relu")
    assert all(made[node.input[0]] in ("Add", "Conv") for node in relus), "a layer's ReLU is part of its kernel"
    assert bool(relus) is (branch == "image")
    feeds = feeds_of(branch)
    np.testing.assert_allclose(run_graph(signed, feeds, plain=True), run_graph(graph, feeds, plain=True), atol=1e-6)


def test_a_shifted_zero_point_has_no_signed_form(graph: Any) -> None:
    broken = onnx.ModelProto()
    broken.CopyFrom(graph)
    name = nodes_of(broken, "QuantizeLinear")[0].input[2]
    for tensor in broken.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.asarray(100, np.uint8), name))
    with pytest.raises(VerificationError, match="is not 128"):
        signed_graph(broken)


@pytest.mark.parametrize("method", METHODS)
def test_whole_branches_stay_near_fp32(view: GraphView, branch: Branch, method: RangeMethod) -> None:
    feeds = feeds_of(branch, 8)
    graph, _ = quantised(view, feeds, method)
    onnx.checker.check_model(graph, full_check=True)
    wanted = run_graph(view.model, feeds).astype(np.float64)
    for plain in (False, True):
        found = run_graph(graph, feeds, plain=plain)
        cosines = (found * wanted).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(wanted, axis=1)
        assert cosines.min() > 0.99


def test_the_table_of_words_is_int8_and_only_its_rows_are_dequantised(tiny_bundle: Path) -> None:
    view = GraphView.open(onnx.load(tiny_bundle / "text.onnx"))
    (number,) = embedding_tables(view)
    name = view.nodes[number].input[0]
    graph = quantise_graph(view, set(), {number}, {})
    tensors = stored(graph)
    assert name not in tensors
    whole, scale = tensors[f"{name}_int8"], tensors[f"{name}_scale"]
    assert whole.dtype == np.int8
    assert whole.shape == view.values(name).shape
    (gather,) = [node for node in nodes_of(graph, "Gather") if node.input[0] == f"{name}_int8"]
    (back,) = [node for node in nodes_of(graph, "DequantizeLinear") if node.input[0] == gather.output[0]]
    assert (back.input[1], back.output[0]) == (f"{name}_scale", view.nodes[number].output[0])
    # The same as FP32 with a table that was rounded by hand.
    by_hand = onnx.ModelProto()
    by_hand.CopyFrom(view.model)
    for tensor in by_hand.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(onnx.numpy_helper.from_array(whole.astype(np.float32) * scale, name))
    np.testing.assert_allclose(run_graph(graph, feeds_of("text")), run_graph(by_hand, feeds_of("text")), atol=2e-6)


def test_layers_that_are_left_out_are_as_they_were(view: GraphView, branch: Branch) -> None:
    graph = quantise_graph(view, set(), set(), {})
    assert [node.op_type for node in graph.graph.node] == [node.op_type for node in view.nodes]
    np.testing.assert_allclose(run_graph(graph, feeds_of(branch)), run_graph(view.model, feeds_of(branch)), atol=1e-6)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_channel_of_zeros_stays_zero(axis: int) -> None:
    weight = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32)
    weight[2, :] = weight[:, 2] = 0
    whole, scale = symmetric_weight(weight, axis)
    assert scale[2] == 1
    assert not whole[2].any()
    assert not whole[:, 2].any()


@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_histograms_count_everything_once(seed: int, batches: int) -> None:
    rng = np.random.default_rng(seed)
    values = [rng.standard_normal(500).astype(np.float32) * 4.0 ** rng.integers(-3, 4) for _ in range(batches)]
    histogram = Histogram.empty()
    for each in values:
        histogram.add(each)
    magnitudes = np.sort(np.abs(np.concatenate(values)))
    assert histogram.counts.sum() == len(magnitudes)
    assert histogram.clip("max") == magnitudes[-1]
    width = histogram.top / BINS
    quantile = magnitudes[int(np.ceil(0.9999 * len(magnitudes))) - 1]
    assert abs(histogram.clip("percentile") - quantile) <= width * 1.01


def test_the_least_error_is_where_trying_finds_it() -> None:
    values = np.random.default_rng(0).laplace(size=50_000).astype(np.float32)
    values[0] = 40
    histogram = Histogram.empty()
    histogram.add(values)

    def error(clip: float) -> float:
        step = clip / 127
        return float(((np.clip(np.rint(values / step), -127, 127) * step - values) ** 2).mean())

    tried = min(error(clip) for clip in np.linspace(2.5, 40, 400))
    assert error(histogram.clip("error")) < 1.02 * tried
    assert error(histogram.clip("max")) > 1.2 * tried


def test_an_activation_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(VerificationError, match="not finite"):
        Histogram.empty().add(np.array([1, np.nan], np.float32))


@given(st.integers(1, 40), st.data())
def test_islands_are_the_fewest_of_the_most_harmful(count: int, data: st.DataObject) -> None:
    needed = data.draw(st.integers(0, count))
    most = data.draw(st.integers(0, count))
    harm = {layer: float((layer * 17) % 41) for layer in range(count)}
    order = sorted(harm, key=lambda layer: -harm[layer])
    found = find_islands(range(count), lambda: harm, lambda kept: kept >= frozenset(order[:needed]), most=most)
    if needed == 0:
        assert (found.kept, found.harm, found.trials) == (frozenset(), {}, 1)
    elif needed > most:
        assert found.kept is None
    else:
        assert found.kept == frozenset(order[:needed])
    assert found.trials <= 3 + 2 * int(np.ceil(np.log2(count + 1)))


@pytest.mark.parametrize(
    ("machine", "flags", "saturates"),
    [
        ("x86_64", "fpu avx2 avx512f", True),
        ("x86_64", "fpu avx2 avx512_vnni", False),
        ("AMD64", "fpu avx_vnni", False),
        ("x86_64", None, True),
        ("aarch64", None, False),
    ],
)
def test_which_processors_saturate(tmp_path: Path, machine: str, flags: str | None, saturates: bool) -> None:
    file = tmp_path / "cpuinfo"
    if flags is not None:
        file.write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    assert products_saturate(machine, file) is saturates


def test_exact_products_give_the_same_embeddings(graph: Any, branch: Branch) -> None:
    """What a processor without VNNI is given: the weights turned to uint8 as the graph is loaded."""
    feeds = feeds_of(branch)
    found = run_graph(graph, feeds, exact=True)
    written = run_graph(graph, feeds, plain=True)  # in FP32, by the graph's own DequantizeLinear nodes
    cosines = (found * written).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(written, axis=1)
    assert cosines.min() > 0.999
    if not products_saturate():
        np.testing.assert_allclose(found, run_graph(graph, feeds, exact=False), atol=1e-5)


def test_tensorrt_for_rtx_builds_the_signed_graph(graph: Any, branch: Branch) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(signed_graph(graph).SerializeToString()), parser.get_error(0).desc()
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    for feed, array in feeds_of(branch).items():
        profile.set_shape(feed, *((batch, *array.shape[1:]) for batch in (1, 4, 8)))
    config.add_optimization_profile(profile)
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    plan = builder.build_serialized_network(network, config)
    assert plan is not None
    assert bytes(plan).count(b"__myln_int8*") > len(nodes_of(graph, "QuantizeLinear")), (
        "kernels that take or give int8"
    )

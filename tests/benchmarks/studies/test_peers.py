"""Peers do the same work: what each gives is compared with a reference before it is timed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tbps_infer.benchmarks import machine_limits
from tbps_infer.benchmarks.results import collect_results
from tbps_infer.benchmarks.samples import read_samples
from tbps_infer.benchmarks.studies.peers import run as peers
from tbps_infer.benchmarks.studies.peers.bert import open_transformers, write_bert
from tbps_infer.benchmarks.studies.peers.indexes import open_faiss, open_usearch
from tbps_infer.benchmarks.studies.peers.plain_loop import embed_captions, embed_pictures
from tbps_infer.bundle import Bundle
from tbps_infer.errors import BackendError
from tbps_infer.families.table import load_source
from tbps_infer.reference.checkpoint import load_checkpoint
from tbps_infer.text import Tokenizer, pad_ids


def test_the_plain_loop_gives_the_bundles_golden_vectors(tiny_bundle: Path, tiny_checkpoint: Path) -> None:
    golden, source = Bundle.open(tiny_bundle).golden(), load_source(None, tiny_checkpoint)
    pictures = embed_pictures(source, [path.read_bytes() for path in golden.crops], 3)
    tokenizer = Tokenizer.from_bundle(Bundle.open(tiny_bundle))
    captions = embed_captions(source, tokenizer, golden.captions, 3)
    # Pictures are resized to the same pixels; filling up to the greatest length changes last bits.
    np.testing.assert_allclose(pictures, golden.image_embeddings, atol=1e-5)
    np.testing.assert_allclose(captions, golden.text_embeddings, atol=1e-5)


def test_the_written_bert_is_the_checkpoints_backbone(tiny_checkpoint: Path, tmp_path: Path) -> None:
    embed = open_transformers(write_bert(tiny_checkpoint, tmp_path / "bert"))
    captions = ["a woman in a red coat", "a man with a backpack and dark blue trousers"]
    loaded = load_checkpoint(tiny_checkpoint)
    tokenizer = Tokenizer.from_facts(loaded.tokenizer_path, loaded.facts)
    ids, mask = map(torch.from_numpy, pad_ids(tokenizer.encode(captions), loaded.facts.pad_id))
    with torch.no_grad():
        wanted = loaded.model.eval().text_backbone(ids, mask)[:, 0].numpy()
    np.testing.assert_allclose(embed(captions), wanted, atol=1e-5)


@pytest.mark.parametrize("opener", [open_faiss, open_usearch])
def test_indexes_are_exact(opener: object) -> None:
    rng = np.random.default_rng(0)
    vectors, queries = (
        rng.standard_normal((300, 64)).astype(np.float32),
        rng.standard_normal((5, 64)).astype(np.float32),
    )
    try:
        search = opener(vectors, 3, 1)  # type: ignore[operator]
    except BackendError as error:
        pytest.skip(error.message)
    np.testing.assert_array_equal(search(queries), np.argsort(-(queries @ vectors.T), axis=1)[:, :3])
    assert search(queries[:1]).shape == (1, 3)


def test_a_run_compares_what_is_installed_and_names_what_is_not(
    tiny_bundle: Path,
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(machine_limits, "MATMUL_SIZE", 64)
    monkeypatch.setattr(machine_limits, "COPY_BYTES", 1 << 16)
    monkeypatch.setitem(__import__("sys").modules, "optimum.onnxruntime", None)
    raw = tmp_path / "peers.jsonl"
    sizes = "--threads 1 --samples 2 --arm-seconds 0 --warm-up-seconds 0 --pictures 2 --captions 4 --rows 60"
    assert peers.main([str(tiny_bundle), str(tiny_checkpoint), "--raw", str(raw), *sizes.split()]) == 0
    results = collect_results(read_samples(raw))
    assert "Optimum, ONNX Runtime" in results.note("absent")
    pictures = [row for row in results.rows if row.what == peers.PICTURES]
    assert [(row.label, row.ratio is None) for row in pictures] == [
        ("a plain PyTorch loop", True),
        ("tbps-infer onnxruntime fp32", False),
    ]
    assert min(results.note("parity").values()) >= 0.99
    assert f"### {peers.PICTURES}" in capsys.readouterr().out


def test_another_models_checkpoint_ends_in_a_sentence(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({}))
    assert peers.main([str(tiny_bundle), str(tmp_path), "--raw", str(tmp_path / "raw.jsonl")]) == 1
    assert "Error: " in capsys.readouterr().err

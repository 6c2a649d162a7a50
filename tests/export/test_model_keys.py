"""Models of other keys than the defaults: graphs equal to PyTorch, in FP16 too, and engines of TensorRT for RTX."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tbps_infer.bundle import Bundle
from tbps_infer.export.bundle import export_bundle
from tbps_infer.export.engines.build import build_engines
from tbps_infer.export.engines.options import EngineOptions
from tbps_infer.export.options import ExportOptions
from tbps_infer.reference.checkpoint import load_checkpoint
from tbps_infer.reference.config import tiny_config
from tbps_infer.reference.pretrained import initial_checkpoint
from tbps_infer.runners.onnxruntime_runner import OnnxRuntimeRunner
from tbps_infer.runners.options import RunOptions
from tbps_infer.tensorrt.plan_spec import BatchRange, BuildSettings
from tbps_infer.tokenizer_files import train_wordpiece
from tbps_infer.verification.samples import synthetic_samples

KEYS: dict[str, dict[str, Any]] = {
    "own stripes, tokens apart": {"part_stage": 1, "part_stages": 2, "token_attention": "none", "sharpness": 4.0},
    "branch from the stem, slots": {"part_stage": 0, "part_stages": 1, "attention_over": "tokens"},
    "learned parts, neighbours last": {
        "part_stage": None,
        "parts_from": "tokens",
        "token_attention": "after",
        "decoder_layers": 2,
    },
}


@pytest.mark.slow
@pytest.mark.usefixtures("no_driver")
@pytest.mark.parametrize("keys", KEYS.values(), ids=KEYS)
def test_bundles_and_engines_of_every_key(keys: dict[str, Any], tmp_path: Path) -> None:
    """An export refuses graphs that are not PyTorch's, a build engines that are not the graphs'."""
    tokenizer = train_wordpiece([caption for _, captions in synthetic_samples() for caption in captions], 400)
    config = replace(tiny_config(tokenizer.get_vocab_size()), **keys)
    checkpoint = initial_checkpoint(tmp_path / "checkpoint", config, tokenizer.to_str(), seed=0)
    bundle: Bundle = export_bundle(checkpoint, tmp_path / "bundle", ExportOptions(precisions=("fp32", "fp16")))
    assert bundle.model.config == config.to_json()
    model = load_checkpoint(checkpoint).model
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (3, 96, 32, 3), dtype=np.uint8)
    ids = rng.integers(5, 300, (3, 17), dtype=np.int32)
    mask = (np.arange(17) < np.array([[17], [9], [4]])).astype(np.int32)
    feeds: dict[str, dict[str, Any]] = {
        "image": {"pixels": pixels},
        "text": {"input_ids": ids, "attention_mask": mask},
    }
    want = {
        "image": model.encode_image(torch.from_numpy(pixels)),
        "text": model.encode_text(torch.from_numpy(ids), torch.from_numpy(mask)),
    }
    for branch, feed in feeds.items():
        runner = OnnxRuntimeRunner(bundle.path / f"{branch}.onnx", RunOptions(threads=1))
        np.testing.assert_allclose(runner.run(feed)[f"{branch}_embedding"], want[branch].numpy(), rtol=0, atol=3e-6)
        runner.close()
    pytest.importorskip("tensorrt_rtx")
    options = EngineOptions(
        backend="tensorrt-rtx",
        precision="fp16",
        image_batch=BatchRange(1, 8, 32),
        text_batch=BatchRange(1, 8, 32),
        text_lengths=(100,),
        settings=BuildSettings(target="sm86"),
    )
    assert build_engines(bundle.path, options).built

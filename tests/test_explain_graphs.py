"""The attention graphs equal PyTorch's attention, padding included."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from tbps_infer.explain.maps import ImageAttention, TextAttention
from tbps_infer.export.attention_graphs import export_attention
from tbps_infer.reference.checkpoint import load_checkpoint
from tbps_infer.runners.onnxruntime_runner import OnnxRuntimeRunner
from tbps_infer.runners.options import RunOptions

TINY = Path(__file__).parents[1] / "tbps_infer" / "assets" / "tiny"


def test_attention_graphs_equal_pytorch(tmp_path: Path) -> None:
    export_attention(TINY, tmp_path)
    model = load_checkpoint(TINY).model
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (3, 96, 32, 3), dtype=np.uint8)
    ids = generator.integers(5, 700, (3, 17), dtype=np.int32)
    mask = (np.arange(17) < np.array([[17], [9], [4]])).astype(np.int32)
    runner = OnnxRuntimeRunner(tmp_path / "image.attention.onnx", RunOptions())
    image = runner.run({"pixels": pixels})["image_attention"]
    runner.close()
    runner = OnnxRuntimeRunner(tmp_path / "text.attention.onnx", RunOptions())
    text = runner.run({"input_ids": ids, "attention_mask": mask})["text_attention"]
    runner.close()
    with torch.inference_mode():
        np.testing.assert_allclose(image, ImageAttention(model)(torch.from_numpy(pixels)).numpy(), atol=1e-4)
        want = TextAttention(model)(torch.from_numpy(ids), torch.from_numpy(mask)).numpy()
    np.testing.assert_allclose(text, want, atol=1e-4)
    assert not text[2, :, 4:].any()

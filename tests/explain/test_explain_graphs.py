"""The attention graphs equal PyTorch's attention, padding included."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import succeed
from PIL import Image
from places import SHIPPED

from tbps_infer.bundle import Bundle
from tbps_infer.data.synth import sample_crops
from tbps_infer.errors import BundleError
from tbps_infer.explain.attention import attend_onnx
from tbps_infer.explain.maps import ImageAttention, TextAttention, attend
from tbps_infer.export.bundle import export_bundle
from tbps_infer.export.graphs import export_attention
from tbps_infer.export.options import ExportOptions
from tbps_infer.reference.checkpoint import load_checkpoint
from tbps_infer.runners.onnxruntime_runner import OnnxRuntimeRunner
from tbps_infer.runners.options import RunOptions

pytestmark = pytest.mark.usefixtures("exports_once")


def test_attention_graphs_equal_pytorch(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(SHIPPED)
    model = checkpoint.model
    export_attention(model, checkpoint.facts, tmp_path)
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


def test_a_bundle_explains_as_its_checkpoint_does(tmp_path: Path) -> None:
    """One export with attention graphs, and what its bundle tells of a picture and a sentence."""
    bundle = export_bundle(SHIPPED, tmp_path / "bundle", ExportOptions(with_attention=True))
    ((crop, captions),) = sample_crops(1, seed=4)
    crop.save(tmp_path / "crop.png")
    want = attend(load_checkpoint(SHIPPED), tmp_path / "crop.png", captions[0])
    found = attend_onnx(bundle, tmp_path / "crop.png", captions[0])
    assert found.words == want.words
    for name in ("image", "coarse", "parts"):
        np.testing.assert_allclose(getattr(found, name), getattr(want, name), atol=5e-3)
    succeed("explain", bundle.path, tmp_path / "crop.png", captions[0], "-o", tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as figure:
        assert figure.width > 600


def test_a_bundle_without_attention_says_what_to_do(tiny_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="has no attention graphs") as caught:
        attend_onnx(Bundle.open(tiny_bundle), tmp_path / "crop.png", "a man")
    assert "--with-attention" in caught.value.hint

"""Attention: equal to a forward pass watched from outside, and told per word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from places import SHIPPED

from tbps_infer.data.synth.samples import sample_crops
from tbps_infer.explain.attention import words_of
from tbps_infer.explain.figure import draw_attention
from tbps_infer.explain.maps import attend
from tbps_infer.images import load_crop
from tbps_infer.reference.checkpoint import load_checkpoint


def test_attention_is_what_encoding_computes(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(SHIPPED)
    ((crop, captions),) = sample_crops(1, seed=3)
    crop.save(tmp_path / "crop.png")
    found = attend(checkpoint, tmp_path / "crop.png", captions[0])
    seen: list[np.ndarray[Any, Any]] = []
    attention = checkpoint.model.decoder[-1].cross_attention
    assert isinstance(attention, torch.nn.Module)
    watch = attention.register_forward_hook(
        lambda _module, _given, result: seen.append(result[1].mean(dim=1)[0].numpy())
    )
    words, ids, owner = words_of(SHIPPED / "tokenizer.json", captions[0], 100)
    pixels = torch.from_numpy(load_crop(tmp_path / "crop.png", checkpoint.config.preprocessing))[None]
    with torch.inference_mode():
        checkpoint.model.encode_image(pixels)
        checkpoint.model.encode_text(torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.int64))
    watch.remove()
    cells = seen[0].shape[-1]
    np.testing.assert_allclose(found.image.reshape(6, -1), seen[0] * cells, atol=1e-4)
    for merged, weights in ((found.coarse, seen[1]), (found.parts, seen[2])):
        for word in range(len(words)):
            own = [place for place, of in enumerate(owner) if of == word]
            np.testing.assert_allclose(merged[:, word], weights[:, own].sum(axis=1) * len(ids), atol=1e-4)
    np.testing.assert_allclose(found.image.mean(axis=(1, 2)), 1, atol=1e-5)
    image = draw_attention(tmp_path / "crop.png", found)
    assert len(image.getcolors(1 << 24) or ()) > 100


def test_pieces_are_merged_to_words_as_written() -> None:
    words, ids, owner = words_of(SHIPPED / "tokenizer.json", "A Zyxomma-backpack, red.", 100)
    assert words == ("A", "Zyxomma", "-", "backpack", ",", "red", ".")
    assert len(ids) == len(owner)
    assert (owner[0], owner[-1]) == (None, None)
    assert [of for of in owner if of is not None] == sorted(of for of in owner if of is not None)

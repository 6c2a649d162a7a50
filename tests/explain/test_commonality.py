"""Commonality from embeddings is the training's; the figure shows the pictures that it names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import fail, succeed
from PIL import Image

from tbps_infer.data.synth import SynthOptions, write_dataset
from tbps_infer.explain.commonality import Commonality, draw_commonality, entropy_commonality
from tbps_infer.training import losses


def test_kappa_is_the_trainings() -> None:
    generator = torch.Generator().manual_seed(0)
    image, text = (torch.randn(7, 3, 16, generator=generator) for _ in range(2))
    want = losses.entropy_commonality(losses.part_similarity(image, text))
    unit = [
        torch.nn.functional.normalize(side, dim=-1).transpose(0, 1).numpy().astype(np.float32)
        for side in (image, text)
    ]
    found = entropy_commonality(unit[0], unit[1])
    np.testing.assert_allclose(found, want.numpy(), atol=1e-5)
    margins = Commonality((Path("a"),) * 7, found).margin
    np.testing.assert_allclose(margins, losses.commonality_margin(want).numpy(), atol=1e-5)
    assert entropy_commonality(unit[0][:, :1], unit[1][:, :1]).tolist() == [[0.0], [0.0], [0.0]]


def test_the_figure_orders_pictures_by_kappa(tmp_path: Path) -> None:
    """Red pictures are the least common ones, blue the most."""
    files = []
    for number in range(12):
        file = tmp_path / f"{number}.png"
        Image.new("RGB", (32, 96), (255, 0, 0) if number < 6 else (0, 0, 255)).save(file)
        files.append(file)
    kappa = np.stack([np.linspace(0.1, 0.9, 12), np.linspace(0.9, 0.1, 12)])
    figure = np.asarray(draw_commonality(Commonality(tuple(files), kappa)))
    halves = np.array_split(figure, 2)  # a row per part, below the heads
    red = [(half == (255, 0, 0)).all(axis=2) for half in halves]
    blue = [(half == (0, 0, 255)).all(axis=2) for half in halves]
    assert red[0].any() and blue[0].any()
    assert red[0].nonzero()[1].mean() < blue[0].nonzero()[1].mean()  # least common at the left
    assert red[1].nonzero()[1].mean() > blue[1].nonzero()[1].mean()


@pytest.mark.parametrize("kind", ["bundle", "checkpoint"])
def test_by_the_command_line(tiny_bundle: Path, tiny_checkpoint: Path, tmp_path: Path, kind: str) -> None:
    write_dataset(tmp_path / "people", SynthOptions(train=1, val=1, test=3, pictures=2, workers=1))
    model = tiny_bundle if kind == "bundle" else tiny_checkpoint
    done = succeed("explain", model, "--commonality", tmp_path / "people", "-o", tmp_path / "c.png")
    assert done.stderr.count("on average") == 2 * 6
    with Image.open(tmp_path / "c.png") as figure:
        assert figure.width > 600


@pytest.mark.parametrize("arguments", [[], ["x.jpg"]])
def test_half_a_question_is_refused(tiny_bundle: Path, tmp_path: Path, arguments: list[str]) -> None:
    Image.new("RGB", (8, 24)).save(tmp_path / "x.jpg")
    given = [tmp_path / name for name in arguments]
    done = fail(2, "explain", tiny_bundle, *given, "-o", tmp_path / "c.png")
    assert "--commonality DATASET" in done.stderr

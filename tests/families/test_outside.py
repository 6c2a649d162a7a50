"""Families from outside: the example, installed as a wheel, and named by its module."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from places import ROOT
from torch.nn import functional as F

from tbps_infer.encoder import Encoder
from tbps_infer.errors import UsageError
from tbps_infer.export.bundle import export_bundle
from tbps_infer.export.options import ExportOptions
from tbps_infer.families.options import LoadOptions
from tbps_infer.families.table import load_source
from tbps_infer.text import Tokenizer
from tbps_infer.tokenizer_files import train_wordpiece

EXAMPLE = ROOT / "examples" / "family"
_TBPS = "import sys; from tbps_infer.cli.main import main; sys.argv[0] = 'tbps'; main()"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Of the example's family, its tokenizer's ids fewer than the embedding's rows."""
    tokenizer = train_wordpiece(["a man in a red coat", "a woman with a backpack"], 200)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    draw = torch.Generator().manual_seed(0)
    shapes = {"img.weight": (8, 18), "img.bias": (8,), "txt.weight": (256, 8), "head.weight": (3, 8)}
    torch.save({n: torch.randn(*shape, generator=draw) for n, shape in shapes.items()}, tmp_path / "best.pth")
    return tmp_path / "best.pth"


def test_the_example_is_found_when_it_is_installed(checkpoint: Path, tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path / "wheels"), str(tmp_path / "source")]
    (tmp_path / "source").mkdir()
    for file in EXAMPLE.iterdir():
        if file.is_file():
            (tmp_path / "source" / file.name).write_bytes(file.read_bytes())
    subprocess.run([*pip, *build], check=True)
    (wheel,) = (tmp_path / "wheels").glob("stripes_family-*.whl")
    site = tmp_path / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", str(site), str(wheel)], check=True)

    def told(*options: str, path: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-W", "ignore", "-c", _TBPS, "info", str(checkpoint), "--json", *options]
        return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})

    recognised = told(path=str(site))
    assert recognised.returncode == 0, recognised.stderr
    facts = json.loads(recognised.stdout)
    assert (facts["family"], facts["dropped"], facts["dim"]) == ("stripes", {"head": 1}, 8)
    assert told("--family", "stripes", path=str(site)).stdout == recognised.stdout
    without = told(path="")
    assert without.returncode == 1 and "no known family" in without.stderr


def test_a_family_is_named_by_its_module(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLE)
    name = "stripes_family:STRIPES"
    bundle = export_bundle(checkpoint, tmp_path / "bundle", ExportOptions(load=LoadOptions(family=name)))
    assert bundle.model.family == "stripes"
    sentence = "a man in a red coat"
    (ids,) = Tokenizer.from_bundle(bundle).encode([sentence])
    wanted = F.normalize(torch.load(checkpoint, weights_only=True)["txt.weight"][ids].sum(dim=0, keepdim=True))
    with Encoder.open(bundle.path) as encoder:
        torch.testing.assert_close(torch.from_numpy(encoder.encode_texts([sentence])), wanted, atol=1e-5, rtol=0)
    with pytest.raises(UsageError, match="--stride means nothing to the family stripes"):
        load_source(name, checkpoint, LoadOptions(stride=16))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("stripes", "'stripes' is not known"),
        ("no_such_module:A", "no_such_module:A cannot be loaded: ModuleNotFoundError"),
        ("json:missing", "json:missing cannot be loaded: AttributeError"),
        ("json:loads", "json:loads is of type function, want a"),
    ],
)
def test_a_family_that_is_not_there_is_named(checkpoint: Path, name: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        load_source(name, checkpoint)

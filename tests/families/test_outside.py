"""Families from outside: the example, installed as a wheel, and named by its module."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from command_line import fail, succeed
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


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Of the example's family, its tokenizer's ids fewer than the embedding's rows."""
    tokenizer = train_wordpiece(["a man in a red coat", "a woman with a backpack"], 200)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    draw = torch.Generator().manual_seed(0)
    shapes = {"img.weight": (8, 18), "img.bias": (8,), "txt.weight": (256, 8), "head.weight": (3, 8)}
    torch.save({n: torch.randn(*shape, generator=draw) for n, shape in shapes.items()}, tmp_path / "best.pth")
    return tmp_path / "best.pth"


def test_the_example_is_found_when_it_is_installed(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = fail(1, "info", checkpoint)
    assert "no known family" in without.stderr
    (tmp_path / "source").mkdir()
    for file in EXAMPLE.iterdir():
        if file.is_file():
            (tmp_path / "source" / file.name).write_bytes(file.read_bytes())
    install = ["install", "--no-deps", "--no-build-isolation", "--target", str(tmp_path / "site")]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", *install, str(tmp_path / "source")]
    subprocess.run(pip, check=True)
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.delitem(sys.modules, "stripes_family", raising=False)
    recognised = succeed("info", checkpoint, "--json")
    facts = json.loads(recognised.stdout)
    assert (facts["family"], facts["dropped"], facts["dim"]) == ("stripes", {"head": 1}, 8)
    assert Path(str(sys.modules["stripes_family"].__file__)).parent == tmp_path / "site"
    assert succeed("info", checkpoint, "--json", "--family", "stripes").stdout == recognised.stdout


def test_a_family_is_named_by_its_module(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLE)
    monkeypatch.delitem(sys.modules, "stripes_family", raising=False)
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

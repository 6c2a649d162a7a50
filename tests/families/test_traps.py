"""What goes wrong with published checkpoints: the right result, or a sentence that names the tensor or the line."""

from __future__ import annotations

import gzip
import os
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import family_checkpoints as made
import pytest
import torch
from places import MERGES
from torch import Tensor

from tbps_infer.errors import CheckpointError, UsageError
from tbps_infer.families.options import LoadOptions
from tbps_infer.families.table import inspect_checkpoint, load_source
from tbps_infer.text import CAPTION_RULES, Tokenizer
from tbps_infer.tokenizer_files import clip_tokenizer
from tbps_infer.verification.samples import synthetic_samples


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    written: dict[str, Tensor] = made.irra_tensors(made.Sizes())
    return written


def refused(file: Path, sentence: str, options: LoadOptions | None = None) -> None:
    with pytest.raises(CheckpointError, match=sentence):
        inspect_checkpoint(file, options)


def test_a_checkpoint_tells_its_coverage_and_what_is_dropped(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    found = inspect_checkpoint(made.save_irra(tmp_path / "best.pth", tensors))
    assert found is not None and found.family.name == "irra"
    kept = [name for name in tensors if name.startswith("base_model.")]
    assert str(found.coverage) == f"{len(kept)} of {len(kept)} tensors"
    assert set(found.coverage.dropped) == tensors.keys() - set(kept)


def test_a_missing_tensor_is_named(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    del tensors["base_model.visual.transformer.resblocks.1.mlp.c_fc.bias"]
    refused(made.save_irra(tmp_path / "a.pth", tensors), r"visual\.transformer\.resblocks\.1\.mlp\.c_fc\.bias")


def test_a_wrong_shape_is_named(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    tensors["base_model.ln_final.weight"] = torch.ones(65)
    refused(made.save_irra(tmp_path / "a.pth", tensors), r"base_model\.ln_final\.weight is \[65\]")


def test_an_unknown_tensor_is_refused_unless_it_is_named(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    tensors["adapter.weight"] = torch.ones(3)
    file = made.save_irra(tmp_path / "a.pth", tensors)
    refused(file, r"adapter\.weight")
    assert inspect_checkpoint(file, LoadOptions(drop=("adapter.",))) is not None


def test_not_a_number_is_named(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    tensors["base_model.text_projection"][0, 0] = float("nan")
    made.write_merges(tmp_path / "merges.txt", 60)
    with pytest.raises(CheckpointError, match=r"base_model\.text_projection has NaN"):
        load_source(None, made.save_irra(tmp_path / "a.pth", tensors))


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ("img_size: !!python/tuple [224, 224]\n", "pictures of 224x224"),
        ("text_length: 90\n", "text_length is 90"),
        ("img_size:\n  - [1, 2\n", "line"),
        ("img_size: !!python/object/apply:os.system ['touch ran']\n", "python/object/apply:os.system of line 1"),
    ],
)
def test_settings_that_contradict_or_carry_code_are_refused(
    tmp_path: Path, tensors: dict[str, Tensor], config: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(made.save_irra(tmp_path / "a.pth", tensors, config=config), sentence)
    assert not (tmp_path / "ran").exists()


def test_an_ambiguous_grid_asks_for_the_size(tmp_path: Path) -> None:
    file = made.save_irra(tmp_path / "a.pth", made.irra_tensors(made.Sizes(cells=10)))
    refused(file, "11 positions, which can be grids of several shapes")
    found = inspect_checkpoint(file, LoadOptions(image_size=(80, 32)))
    assert found is not None and found.plan.preprocessing.image_size == (80, 32)


class _Malicious:
    def __reduce__(self) -> Any:
        return os.mkdir, ("ran",)


def test_code_in_a_pickle_is_refused_and_not_run(
    tmp_path: Path, tensors: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": tensors, "config": _Malicious()}, tmp_path / "a.pth")
    refused(tmp_path / "a.pth", "none of it was executed")
    assert not (tmp_path / "ran").exists()


def test_a_pickled_easydict_is_read_as_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("easydict")

    class EasyDict(dict[str, Any]):
        """As the package's: its attributes are its keys."""

        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, value)
            self[name] = value

    EasyDict.__module__, EasyDict.__qualname__ = "easydict", "EasyDict"
    module.EasyDict = EasyDict  # type: ignore[attr-defined]
    config = EasyDict()
    experiment = EasyDict()
    experiment.input_resolution, experiment.text_length = [64, 64], 18
    config.experiment = experiment
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "easydict", module)
        values = {"model": made.tbps_clip_tensors(made.Sizes(cells=16)), "config": config}
        torch.save(values, tmp_path / "a.pth")
    found = inspect_checkpoint(tmp_path / "a.pth")
    assert found is not None and found.family.name == "tbps-clip"
    assert found.plan.max_length == 18 and "(config)" in found.file.settings.source


def test_no_merges_is_said(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    file = made.save_irra(tmp_path / "a.pth", tensors)
    with pytest.raises(UsageError) as caught:
        load_source(None, file)
    assert "--merges" in caught.value.hint


@pytest.mark.skipif(not MERGES.is_file(), reason="CLIP's merges file is not here")
def test_bpe_is_the_fields(tmp_path: Path) -> None:
    """Against a plain byte-pair encoder: the lowest-ranked pair joined again and again."""
    lines = gzip.decompress(MERGES.read_bytes()).decode().split("\n")
    pairs = [tuple(line.split()) for line in lines[1 : 49152 - 256 - 2]]
    ranks = {pair: number for number, pair in enumerate(pairs)}
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letter = {byte: chr(byte) for byte in printable}
    letter |= {byte: chr(256 + n) for n, byte in enumerate(b for b in range(256) if b not in letter)}
    vocab = [*letter.values(), *(c + "</w>" for c in letter.values()), *map("".join, pairs)]
    ids = {piece: number for number, piece in enumerate([*vocab, "<|mask|>", "<|startoftext|>", "<|endoftext|>"])}
    assert (ids["<|mask|>"], ids["<|startoftext|>"], ids["<|endoftext|>"]) == (49405, 49406, 49407)

    def plain(caption: str) -> list[int]:
        found = [49406]
        text = CAPTION_RULES["clip"](caption)
        for word in re.findall(r"'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|(?:[^\s\w]|_)+", text):
            pieces = [letter[byte] for byte in word.encode()]
            pieces[-1] += "</w>"
            while len(pieces) > 1:
                best = min(range(len(pieces) - 1), key=lambda n: ranks.get((pieces[n], pieces[n + 1]), 10**9))
                if (pieces[best], pieces[best + 1]) not in ranks:
                    break
                pieces[best : best + 2] = [pieces[best] + pieces[best + 1]]
            found += [ids[piece] for piece in pieces]
        return [*found[:76], 49407]

    clip_tokenizer(MERGES, 49408).save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer(tmp_path / "tokenizer.json", caption_rule="clip", max_length=77, pad_id=0)
    captions = [caption for _, several in synthetic_samples() for caption in several]
    captions += [
        "She's wearing Nike 2019 shoes!! &amp;amp; a caf\u00c3\u00a9-brown bag",
        "jekyll in a coat",
        "word " * 90,
    ]
    assert tokenizer.encode(captions) == [plain(caption) for caption in captions]
    assert CAPTION_RULES["clip"](" A &amp;lt; caf\u00c3\u00a9 \n Bag ") == "a < caf\u00e9 bag"

"""Files of tensors as people have them: wrappers, parts, adapters, and what is no file of tensors at all."""

from __future__ import annotations

import argparse
import gzip
import io
import json
import re
import subprocess
import sys
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from places import ROOT
from safetensors.torch import save_file
from torch import Tensor, nn

from tbps_infer.errors import CheckpointError, UsageError
from tbps_infer.reference.tensor_files import find_tensors, read_tensors, tensors_file_sha256

X = {"tower.proj": torch.arange(6.0).reshape(2, 3), "tower.scale": torch.tensor(2.0)}
Y = {name: tensor + 1 for name, tensor in X.items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def with_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def saved(file: Path, values: Any) -> Path:
    if file.suffix == ".safetensors":
        save_file({name: tensor.clone() for name, tensor in values.items()}, file)
    else:
        torch.save(values, file)
    return file


@pytest.mark.parametrize("prefix", ["", "module.", "module.module.", "_orig_mod.", "module._orig_mod.", "model."])
@pytest.mark.parametrize("name", ["a.pth", "a.safetensors", "a.bin"])
def test_wrappers_are_taken_off_in_every_format(tmp_path: Path, prefix: str, name: str) -> None:
    assert same(read_tensors(saved(tmp_path / name, with_prefix(prefix, X))), X)
    inside = {key.replace("tower.", "tower._orig_mod."): tensor for key, tensor in X.items()}
    assert same(read_tensors(saved(tmp_path / name, inside)), X)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda x: {"model": x, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": []}},
        lambda x: {"state_dict": with_prefix("model.", x), "epoch": 3, "pytorch-lightning_version": "2.5"},
        lambda x: {"model_state_dict": OrderedDict(x), "best": {"r1": torch.tensor(0.7)}},
        lambda x: {"net": with_prefix("module.", x), "r1": np.float64(73.4), "history": np.arange(3.0)},
        lambda x: {"checkpoint": {"ema": {"shadow": x}}},
    ],
    ids=["model", "lightning", "model_state_dict", "numpy", "nested"],
)
def test_the_one_set_of_weights_is_found_under_any_key(tmp_path: Path, wrap: Callable[[Any], Any]) -> None:
    assert same(read_tensors(saved(tmp_path / "a.pth", wrap(X))), X)


def test_several_sets_are_refused_until_one_is_chosen(tmp_path: Path) -> None:
    file = saved(tmp_path / "a.pth", {"model": with_prefix("module.", X), "ema": {"module": Y}})
    with pytest.raises(CheckpointError, match=r"several sets of weights: model, ema\.module") as caught:
        read_tensors(file)
    assert caught.value.hint.endswith("--key ema.module")
    assert same(read_tensors(file, "model"), X) and same(read_tensors(file, "ema.module"), Y)
    with pytest.raises(CheckpointError, match="several sets"):
        read_tensors(file, "emma")


def test_a_set_beside_other_tensors_is_chosen_by_its_key(tmp_path: Path) -> None:
    file = saved(tmp_path / "a.pth", {"model": X, "queue": torch.ones(3)})
    with pytest.raises(CheckpointError, match="'model' is no plain tensor") as caught:
        read_tensors(file)
    assert caught.value.hint.endswith("--key model")
    assert same(read_tensors(file, "model"), X)


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_two_tensors_of_one_name_are_refused_until_one_is_chosen(tmp_path: Path, name: str) -> None:
    file = saved(tmp_path / name, {**X, **with_prefix("module.", Y)})
    with pytest.raises(CheckpointError, match=r"has tower\.\w+ twice, with different numbers") as caught:
        read_tensors(file)
    assert caught.value.hint.endswith(("--key . or --key module.", "--key module. or --key ."))
    assert same(read_tensors(file, "module."), Y) and same(read_tensors(file, "."), X)
    with pytest.raises(UsageError, match="nothing of the key ema"):
        read_tensors(file, "ema")
    assert same(read_tensors(saved(tmp_path / name, {**X, **with_prefix("module.", X)})), X)


def test_parts_are_read_by_their_index(tmp_path: Path) -> None:
    save_file({"tower.proj": X["tower.proj"]}, tmp_path / "model-00001-of-00002.safetensors")
    save_file({"tower.scale": X["tower.scale"]}, tmp_path / "model-00002-of-00002.safetensors")
    parts = {f"tower.{n}": f"model-0000{i}-of-00002.safetensors" for i, n in enumerate(("proj", "scale"), 1)}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": parts}))
    assert find_tensors(tmp_path) == index and same(read_tensors(index), X)
    before = tensors_file_sha256(index)
    save_file({"tower.scale": Y["tower.scale"]}, tmp_path / "model-00002-of-00002.safetensors")
    assert tensors_file_sha256(index) != before
    outside = saved(tmp_path.parent / "outside.safetensors", X)
    for part, sentence in (
        ("../outside.safetensors", "no file of its own folder"),
        (str(outside), "no file of its own folder"),
        ("model-00003.safetensors", "not beside it"),
        ("model-00001-of-00002.safetensors", "and it does not"),
    ):
        index.write_text(json.dumps({"weight_map": parts | {"tower.scale": part}}))
        with pytest.raises(CheckpointError, match=sentence):
            read_tensors(index)
    index.write_text("[]")
    with pytest.raises(CheckpointError, match="JSON object"):
        read_tensors(index)


def test_the_content_counts_and_not_the_name(tmp_path: Path) -> None:
    assert same(read_tensors(saved(tmp_path / "a.safetensors", X).rename(tmp_path / "a.bin")), X)
    assert same(read_tensors(saved(tmp_path / "a.pth", X).rename(tmp_path / "a.safetensors")), X)


@pytest.mark.parametrize("name", ["only.bin", "only.ckpt", "pytorch_model.bin"])
def test_a_folders_file_is_found(tmp_path: Path, name: str) -> None:
    saved(tmp_path / name, X)
    if name == "pytorch_model.bin":
        saved(tmp_path / "training_args.bin", Y)
    assert find_tensors(tmp_path) == tmp_path / name


def script(file: Path) -> None:
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), file)


def zipped(file: Path) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("best.pth", b"x")


def tarred(file: Path) -> None:
    with tarfile.open(file, "w") as archive:
        archive.addfile(tarfile.TarInfo("best.pth"), io.BytesIO())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.jit's own
@pytest.mark.parametrize(
    ("make", "sentence", "remedy"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "Git LFS pointer", "git lfs pull"),
        (b"\n <!DOCTYPE html><html><title>Quota exceeded</title>", r"web page \(HTML\)", "download the file itself"),
        (gzip.compress(b"x"), "compressed with gzip", "gunzip"),
        (zipped, "zip archive", "name the file of tensors inside"),
        (tarred, "tar archive", "tar xf"),
        (script, "TorchScript archive", "docs/families.md"),
        (b"GGUF\x03\0\0\0", "quantised", "made from"),
        (b"", "damaged: it is empty", "Copy it again"),
    ],
    ids=["lfs", "html", "gz", "zip", "tar", "torchscript", "gguf", "empty"],
)
def test_what_is_no_file_of_tensors_is_named(tmp_path: Path, make: Any, sentence: str, remedy: str) -> None:
    for name in ("best.pth", "model.safetensors", "best.pth.tar"):
        file = tmp_path / name
        if isinstance(make, bytes):
            file.write_bytes(make)
        else:
            make(file)
        with pytest.raises(CheckpointError, match=sentence) as caught:
            read_tensors(file)
        assert remedy in caught.value.hint


def lora(changes: dict[str, Tensor] | None = None, alpha: float = 8) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Adapted weights as PEFT stores them, and the same merged."""
    draw = torch.Generator().manual_seed(0)
    weight, down, up = (torch.randn(*shape, generator=draw) for shape in ((4, 6), (2, 6), (4, 2)))
    stored = {
        "base_model.model.fc.base_layer.weight": weight,
        "base_model.model.fc.base_layer.bias": torch.ones(4),
        "base_model.model.fc.lora_A.default.weight": down,
        "base_model.model.fc.lora_B.default.weight": up,
    }
    return stored | (changes or {}), {"fc.weight": weight + alpha / 2 * up @ down, "fc.bias": torch.ones(4)}


def test_plain_lora_is_merged(tmp_path: Path) -> None:
    stored, merged = lora()
    file = saved(tmp_path / "a.safetensors", stored)
    with pytest.raises(CheckpointError, match="nothing says their alpha"):
        read_tensors(file)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 8, "r": 2, "use_dora": False}))
    read = read_tensors(file)
    assert read.keys() == merged.keys()
    torch.testing.assert_close(read["fc.weight"], merged["fc.weight"])


@pytest.mark.parametrize(
    ("changes", "config", "sentence"),
    [
        ({}, {"use_rslora": True}, "use_rslora is True"),
        ({}, {"lora_alpha": None}, "lora_alpha is None"),
        ({"base_model.model.fc.lora_magnitude_vector.default.weight": torch.ones(4)}, {}, "lora_magnitude_vector"),
        ({"base_model.model.fc.lora_A.other.weight": torch.ones(2, 6)}, {}, "several adapters: default, other"),
        ({"base_model.model.other.lora_A.default.weight": torch.ones(2, 6)}, {}, r"lacks other\.weight"),
        ({"base_model.model.fc.lora_A.default.weight": torch.ones(3, 6)}, {}, "do not fit"),
        ({"fc.lora_A": torch.ones(2, 6)}, {}, r"fc\.lora_A, which is not LoRA as PEFT stores it"),
    ],
)
def test_lora_that_is_not_plain_is_refused(
    tmp_path: Path, changes: dict[str, Tensor], config: dict[str, Any], sentence: str
) -> None:
    stored, _ = lora(changes)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 8, **config}))
    with pytest.raises(CheckpointError, match=sentence):
        read_tensors(saved(tmp_path / "a.pth", stored))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.jit's own
def test_the_documented_command_converts_what_carries_objects(tmp_path: Path) -> None:
    """Where the file is trusted; the reader itself refuses it."""
    file = saved(tmp_path / "best.pth", {"model": X, "args": argparse.Namespace(lr=1)})
    with pytest.raises(CheckpointError, match=r"argparse\.Namespace") as caught:
        read_tensors(file)
    assert "docs/families.md" in caught.value.hint
    text = (ROOT / "docs" / "families.md").read_text()
    code = re.search(r'python -c "(.+?)" best\.pth best\.safetensors', text, re.DOTALL)
    assert code is not None
    out = tmp_path / "best.safetensors"
    subprocess.run([sys.executable, "-c", code[1], file, out], check=True)
    assert same(read_tensors(out), X)
    script(tmp_path / "scripted.pt")
    subprocess.run([sys.executable, "-W", "ignore", "-c", code[1], tmp_path / "scripted.pt", out], check=True)
    assert read_tensors(out).keys() == {"weight", "bias"}

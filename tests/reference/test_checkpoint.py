"""Checkpoints: what is written is read back, and anything else is refused with a sentence that names it."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from text_files import change_json
from torch import Tensor

from tbps_infer.bundle import file_sha256
from tbps_infer.errors import CheckpointError
from tbps_infer.reference.checkpoint import load_checkpoint, save_checkpoint, weights_sha256
from tbps_infer.reference.config import ModelConfig, ViTConfig, base_config, tiny_config
from tbps_infer.reference.model import PartModel
from tbps_infer.reference.tensor_files import read_tensors
from tbps_infer.tokenizer_files import train_wordpiece

Tensors = dict[str, Tensor]
A_BIAS = "decoder.0.ffn.0.bias"


@pytest.fixture
def copy(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))


@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
def test_what_is_written_is_read_back(tiny_checkpoint: Path, tmp_path: Path, dtype: Any) -> None:
    first = load_checkpoint(tiny_checkpoint)
    text = first.tokenizer_path.read_text(encoding="utf-8")
    folder = save_checkpoint(tmp_path / dtype, first.model, text, dtype=dtype, training={"epochs": 3})
    again = load_checkpoint(folder)
    assert again.config == first.config and again.training == {"epochs": 3}
    assert again.tokenizer_path.read_text(encoding="utf-8") == text
    assert again.sha256 == file_sha256(folder / "model.safetensors")
    assert not again.model.training and not any(p.requires_grad for p in again.model.parameters())
    stored = read_tensors(folder / "model.safetensors")
    assert {t.dtype for t in stored.values()} == {torch.float16 if dtype == "fp16" else torch.float32}
    for name, tensor in again.model.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            expected = first.model.state_dict()[name]
            assert tensor.dtype == torch.float32
            assert torch.equal(tensor, expected.half().float() if dtype == "fp16" else expected)
    assert (again.facts == first.facts) == (dtype == "fp32")
    assert again.facts.fingerprint == load_checkpoint(folder / "model.safetensors").facts.fingerprint


def test_any_carrier_of_the_same_tensors_is_the_same_model(copy: Path) -> None:
    """A ``.pth`` file, nested or saved from DistributedDataParallel, has the safetensors file's fingerprint."""
    expected = load_checkpoint(copy).facts
    tensors = read_tensors(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    for number, values in enumerate(
        (
            tensors,
            {"model": tensors},
            {"state_dict": {f"module.{name}": tensor for name, tensor in tensors.items()}, "epoch": 3},
            {**tensors, "image_backbone.embedder.embedder.normalization.num_batches_tracked": torch.tensor(7)},
        )
    ):
        file = copy / f"{number}.pth"
        torch.save(values, file)
        assert load_checkpoint(file).facts == expected
    with pytest.raises(CheckpointError, match=r"one file of tensors .* holds 0\.pth, 1\.pth, 2\.pth, 3\.pth"):
        load_checkpoint(copy)


def test_the_fingerprint_tells_weights_and_tokenizers_apart(copy: Path) -> None:
    before = load_checkpoint(copy)
    tensors = read_tensors(copy / "model.safetensors")
    tensors[A_BIAS][0] += 1e-3
    save_file(tensors, copy / "model.safetensors")
    moved = load_checkpoint(copy)
    assert weights_sha256(moved.model) != weights_sha256(before.model)
    tokenizer = copy / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert len({before.facts.fingerprint, moved.facts.fingerprint, load_checkpoint(copy).facts.fingerprint}) == 3


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda tensors: tensors.pop(A_BIAS), rf"has no tensor {A_BIAS}\."),
        (
            lambda tensors: [tensors.pop(n) for n in list(tensors) if n.startswith("decoder.")],
            r"\(\d\d such tensors\)",
        ),
        (lambda tensors: tensors.update(extra=torch.zeros(1)), "has a tensor that the model does not know: extra"),
        (lambda tensors: tensors.update({A_BIAS: torch.zeros(255)}), rf"{A_BIAS} is \[255\].* wants \[256\]"),
        (lambda tensors: tensors[A_BIAS].__setitem__(7, torch.nan), f"{A_BIAS} has NaN"),
        (lambda tensors: tensors[A_BIAS].__setitem__(7, -torch.inf), f"{A_BIAS} has NaN or infinite"),
    ],
    ids=["missing", "many missing", "unknown", "misshapen", "NaN", "infinite"],
)
def test_tensors_that_do_not_fit_are_named(copy: Path, change: Callable[[Tensors], object], sentence: str) -> None:
    tensors = read_tensors(copy / "model.safetensors")
    change(tensors)
    save_file(tensors, copy / "model.safetensors")
    with pytest.raises(CheckpointError, match=sentence):
        load_checkpoint(copy)


class _Code:
    """What an attacker puts into a pickle: loading it makes a folder."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.file),)


@pytest.mark.parametrize("style", ["zip", "legacy", "pickle"])
def test_code_in_a_pickle_is_refused_and_not_run(copy: Path, tmp_path: Path, style: str) -> None:
    marker = tmp_path / "ran"
    values = {"weight": torch.zeros(2), "payload": _Code(marker)}
    file = copy / "model.pth"
    if style == "pickle":
        file.write_bytes(pickle.dumps({"payload": _Code(marker)}))
    else:
        torch.save(values, file, _use_new_zipfile_serialization=style == "zip")
    sentence = "torch.save wrote" if style == "pickle" else r"carries code .*posix.mkdir.* none of it was executed"
    with pytest.raises(CheckpointError, match=sentence):
        load_checkpoint(file)
    assert not marker.exists()
    if style == "pickle":
        pickle.loads(file.read_bytes())  # the trap does work
        assert marker.exists()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"hello world" * 99, "damaged, or is not a file of tensors"),
        (b"", "damaged"),
        ({"weight": torch.zeros(2), "epoch": 3}, "does not hold a state dict"),
        ({1: torch.zeros(2)}, "does not hold a state dict"),
        ([torch.zeros(2)], "does not hold a state dict"),
        ({"weight": torch.zeros(2).to_sparse()}, "does not hold a state dict"),
        ({"model": {}, "args": argparse.Namespace(lr=1)}, r"objects besides tensors \(argparse\.Namespace\)"),
    ],
    ids=["garbage", "empty", "number", "unnamed", "list", "sparse", "namespace"],
)
def test_other_pytorch_files_are_refused(tmp_path: Path, content: Any, sentence: str) -> None:
    file = tmp_path / "model.pth"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    with pytest.raises(CheckpointError, match=sentence):
        read_tensors(file)


def test_missing_and_damaged_files_are_named(copy: Path, tmp_path: Path) -> None:
    def refused(sentence: str) -> None:
        with pytest.raises(CheckpointError, match=sentence):
            load_checkpoint(copy)

    with pytest.raises(CheckpointError, match="nowhere does not exist"):
        load_checkpoint(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="holds none"):
        load_checkpoint(tmp_path)
    content = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(content[:-1])
    refused("not a readable safetensors file")
    (copy / "model.safetensors").write_bytes(content)
    tokenizer = (copy / "tokenizer.json").read_text(encoding="utf-8")
    (copy / "tokenizer.json").write_text("{}", encoding="utf-8")
    refused("tokenizer.json is not a readable tokenizers file")
    words = [f"w{number}" for number in range(500)]
    train_wordpiece([" ".join(words)], 700).save(str(copy / "tokenizer.json"))
    refused(r"has \d+ tokens, and the model knows 400")
    (copy / "tokenizer.json").unlink()
    refused("has no tokenizer.json")
    (copy / "tokenizer.json").write_text(tokenizer, encoding="utf-8")
    (copy / "config.json").write_text("{", encoding="utf-8")
    refused("config.json is not valid JSON")
    (copy / "config.json").write_text("[]", encoding="utf-8")
    refused("not a configuration of the reference model")
    (copy / "config.json").unlink()
    refused("config.json does not exist")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda values: values.update(family="clip"), '"family": "part"'),
        (lambda values: values["model"].update(colour=1), "colour"),
        (lambda values: values["model"]["text"].update(colour=1), "colour"),
        (lambda values: values["model"]["image"].update(kind="convnext"), "convnext"),
        (lambda values: values["model"]["preprocessing"].update(interpolation="nearest"), "nearest"),
        (lambda values: values["model"]["preprocessing"].update(image_size=[100, 32]), "not a multiple"),
        (lambda values: values["model"].update(parts=5), "5 stripes do not divide"),
        (lambda values: values["model"]["text"].update(max_length=129), "there are 128 positions"),
        (lambda values: values["model"].update(heads=7), "not a multiple of heads"),
        (lambda values: values["model"].update(dim=128), r"is \[.*wants \["),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(
    copy: Path, change: Callable[[dict[str, Any]], None], sentence: str
) -> None:
    change_json(copy / "config.json", change)
    with pytest.raises(CheckpointError, match=sentence):
        load_checkpoint(copy)


def test_a_value_that_fp16_cannot_hold_is_not_written(tiny_checkpoint: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(tiny_checkpoint)
    checkpoint.model.get_parameter(A_BIAS).fill_(1e5)
    with pytest.raises(CheckpointError, match=f"{A_BIAS} is not finite as fp16"):
        save_checkpoint(tmp_path / "out", checkpoint.model, "{}", dtype="fp16")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("config", [base_config(), tiny_config(99), replace(base_config(), image=ViTConfig())])
def test_configurations_are_read_back_from_json(config: ModelConfig) -> None:
    assert ModelConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize(
    ("image", "expected"),
    [(None, "b35267c91999e869"), (ViTConfig(hidden_size=32, layers=1, heads=2, mlp_size=64), "ca52f53ad98c7758")],
    ids=["resnet", "vit"],
)
def test_names_and_shapes_of_tensors_are_the_ones_on_users_disks(image: ViTConfig | None, expected: str) -> None:
    """Part of the names are those of transformers' modules: if a release renames them, old files stop loading."""
    first = {"token_attention": "before", "sharpness": 1.0, "part_stage": None, "part_stages": 1, "fine_weight": 1.0}
    config = replace(tiny_config(99), image=image or tiny_config(99).image, **first)  # type: ignore[arg-type]
    entries = sorted(
        f"{name} {list(tensor.shape)}"
        for name, tensor in PartModel(config).state_dict().items()
        if not name.endswith("num_batches_tracked")
    )
    assert hashlib.sha256("\n".join(entries).encode()).hexdigest()[:16] == expected

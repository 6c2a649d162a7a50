"""Families' checkpoints in the wrappers and formats that people have them in."""

from __future__ import annotations

import re
from pathlib import Path

import family_checkpoints as made
import numpy as np
import pytest
import torch
from command_line import fail, run
from safetensors.torch import save_file
from torch import Tensor

from tbps_infer.errors import CheckpointError
from tbps_infer.families.options import LoadOptions
from tbps_infer.families.table import load_source


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    written: dict[str, Tensor] = made.irra_tensors(made.Sizes())
    return written


def fingerprint(file: Path, key: str | None = None) -> str:
    made.write_merges(file.parent / "merges.txt", 60)
    return load_source(None, file, LoadOptions(key=key)).facts.fingerprint


def test_wrappers_and_formats_change_no_fingerprint(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    expected = fingerprint(made.save_irra(tmp_path / "a.pth", tensors))
    wrapped = {f"module.model._orig_mod.{name}": tensor.clone() for name, tensor in tensors.items()}
    save_file(wrapped, tmp_path / "b.safetensors")
    assert fingerprint(tmp_path / "b.safetensors") == expected
    torch.save({"state_dict": wrapped, "best": np.float64(73.4)}, tmp_path / "c.ckpt")
    assert fingerprint(tmp_path / "c.ckpt") == expected
    other = {name: tensor + 1 for name, tensor in tensors.items()}
    torch.save({"model": other, "ema": tensors}, tmp_path / "d.pth")
    assert fingerprint(tmp_path / "d.pth", "ema") == expected
    refused = fail(1, "info", tmp_path / "d.pth")
    assert "model, ema" in refused.output and "--key ema" in refused.output
    assert run("info", tmp_path / "d.pth", "--key", "ema").exit_code == 0


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_quantised_tensors_are_named(tmp_path: Path, tensors: dict[str, Tensor], dtype: torch.dtype) -> None:
    tensors["base_model.text_projection"] = tensors["base_model.text_projection"].to(dtype)
    kind = re.escape(str(dtype).removeprefix("torch."))
    with pytest.raises(CheckpointError, match=rf"base_model\.text_projection is of type {kind}") as caught:
        fingerprint(made.save_irra(tmp_path / "a.pth", tensors))
    assert "before it was quantised" in caught.value.hint


def test_lora_of_a_training_is_merged_by_the_alpha_of_its_settings(
    tmp_path: Path, tensors: dict[str, Tensor]
) -> None:
    module = "base_model.visual.transformer.resblocks.0.mlp.c_fc"
    weight = tensors.pop(f"{module}.weight")
    down, up = torch.randn(2, 64), torch.randn(256, 2)
    merged = tensors | {f"{module}.weight": weight + 4.0 * up @ down}
    tensors |= {
        f"{module}.base_layer.weight": weight,
        f"{module}.lora_A.default.weight": down,
        f"{module}.lora_B.default.weight": up,
    }
    file = made.save_irra(tmp_path / "a.pth", tensors)
    with pytest.raises(CheckpointError, match="nothing says their alpha"):
        fingerprint(file)
    made.save_irra(file, tensors, config="lora_alpha: 8\n")
    assert fingerprint(file) == fingerprint(made.save_irra(tmp_path / "b.pth", merged))

"""Low-rank adapters (Hu et al., arXiv 2106.09685) as PEFT stores them beside a model's weights, merged into these.

The merged weight is W + (alpha / r)·B·A. What PEFT has besides plain LoRA (rank-stabilised scaling, DoRA, several
adapters) is refused, and so are the names of other implementations: loralib stores A and B beside a W that may hold
their product already.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from tbps_infer.errors import CheckpointError

__all__ = ["ADAPTER_CONFIG", "alpha_of", "merge_lora"]

ADAPTER_CONFIG = "adapter_config.json"
_ADAPTER = re.compile(r"(.+)\.lora_([AB])(?:\.(\w+))?\.weight")
_MERGE = "Merge the adapters where the model was trained (PEFT: merge_and_unload), and save its state dict."
_CHANGES_THE_SUM = ("use_rslora", "use_dora", "fan_in_fan_out", "rank_pattern", "alpha_pattern", "modules_to_save")


def alpha_of(file: Path, values: Mapping[str, Any]) -> float:
    """LoRA's alpha, as PEFT's configuration says. Raises CheckpointError where the adapters are not plain LoRA."""
    other = [name for name in _CHANGES_THE_SUM if values.get(name)]
    alpha = values.get("lora_alpha")
    if other or not isinstance(alpha, int | float):
        said = f"{other[0]} is {values[other[0]]!r}" if other else f"lora_alpha is {alpha!r}"
        raise CheckpointError(f"{file}: {said}, and such adapters are not merged here.", _MERGE)
    return float(alpha)


def merge_lora(path: Path, tensors: Mapping[str, Tensor], alpha: float | None) -> dict[str, Tensor]:
    """Tensors with plain LoRA adapters merged into the weights that they adapt; the same where there are none.

    Args:
        path: The file, for sentences.
        tensors: By name, ``MODULE.lora_A.ADAPTER.weight`` ``[r, in]`` and ``MODULE.lora_B.ADAPTER.weight``
            ``[out, r]`` among them.
        alpha: LoRA's own.

    Raises:
        CheckpointError: There are adapters, and how they are merged is not certain.
    """
    if not any("lora_" in name for name in tensors):
        return dict(tensors)
    merged = {_without_adapter(name): tensor for name, tensor in tensors.items() if "lora_" not in name}
    adapters: dict[str, dict[str, Tensor]] = {}
    seen: set[str | None] = set()
    for name in (name for name in tensors if "lora_" in name):
        found = _ADAPTER.fullmatch(name)
        if found is None:
            raise CheckpointError(f"{path} has {name}, which is not LoRA as PEFT stores it.", _MERGE)
        adapters.setdefault(_without_adapter(f"{found[1]}.weight"), {})[found[2]] = tensors[name]
        seen.add(found[3])
    if len(seen) > 1:
        raise CheckpointError(f"{path} holds several adapters: {', '.join(sorted(map(str, seen)))}.", _MERGE)
    if alpha is None:
        raise CheckpointError(
            f"{path} holds LoRA adapters, and nothing says their alpha.",
            f"Put its {ADAPTER_CONFIG} beside it, or a configs.yaml with lora_alpha.",
        )
    for target, pair in adapters.items():
        merged[target] = _sum(path, target, merged.get(target), pair, alpha)
    return merged


def _sum(path: Path, target: str, weight: Tensor | None, pair: Mapping[str, Tensor], alpha: float) -> Tensor:
    down, up = pair.get("A"), pair.get("B")
    if weight is None or down is None or up is None:
        lacking = target if weight is None else f"both halves of {target}'s adapter"
        raise CheckpointError(f"{path} holds LoRA adapters and lacks {lacking}.", _MERGE)
    if down.dim() != 2 or up.dim() != 2 or (up.shape[0], down.shape[1]) != weight.shape or up.shape[1] != len(down):
        shapes = ", ".join(str(list(tensor.shape)) for tensor in (weight, down, up))
        raise CheckpointError(f"{path}: {target} and its adapter are {shapes}, which do not fit W + B·A.", _MERGE)
    summed: Tensor = weight.float() + alpha / len(down) * (up.float() @ down.float())
    return summed


def _without_adapter(name: str) -> str:
    """PEFT puts ``base_model.model.`` before all names, and ``base_layer`` into those of adapted modules."""
    return name.removeprefix("base_model.model.").replace(".base_layer.", ".")

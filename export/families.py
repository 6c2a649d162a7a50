"""The table of models: how a checkpoint of each family becomes two modules that can be exported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from torch import Tensor, nn

from tbps_infer.bundle import Branch, ModelFacts
from tbps_infer.errors import UsageError
from tbps_infer.reference.checkpoint import load_checkpoint
from tbps_infer.reference.model import PartModel

__all__ = ["FAMILIES", "SourceModel", "load_source"]


@dataclass(frozen=True)
class SourceModel:
    """A loaded model of any family, its two branches in eval mode on the CPU.

    Attributes:
        facts: What defines its embedding space.
        image: ``pixels``, uint8 ``[batch, height, width, 3]``, to z, float32 ``[batch, dim]``.
        text: ``input_ids`` and ``attention_mask``, int32 ``[batch, length]``, to z, float32 ``[batch, dim]``.
        tokenizer_path: Its `tokenizers` file.
        name: Of the checkpoint: its folder and file.
        sha256: Of the checkpoint's tensors' file.
    """

    facts: ModelFacts
    image: nn.Module
    text: nn.Module
    tokenizer_path: Path
    name: str
    sha256: str

    def branch(self, branch: Branch) -> nn.Module:
        """The module of one branch."""
        return self.image if branch == "image" else self.text


class _PartImage(nn.Module):
    def __init__(self, model: PartModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        return self.model.encode_image(pixels)


class _PartText(nn.Module):
    def __init__(self, model: PartModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.model.encode_text(input_ids, attention_mask)


def _load_part(path: Path) -> SourceModel:
    checkpoint = load_checkpoint(path)
    return SourceModel(
        facts=checkpoint.facts,
        image=_PartImage(checkpoint.model).eval(),
        text=_PartText(checkpoint.model).eval(),
        tokenizer_path=checkpoint.tokenizer_path,
        name=f"{checkpoint.path.resolve().parent.name}/{checkpoint.path.name}",
        sha256=checkpoint.sha256,
    )


FAMILIES: Mapping[str, Callable[[Path], SourceModel]] = MappingProxyType({"part": _load_part})


def load_source(family: str, path: Path) -> SourceModel:
    """Load a checkpoint of one family.

    Raises:
        UsageError: The family is not in the table.
        CheckpointError: The checkpoint cannot be read.
    """
    loader = FAMILIES.get(family)
    if loader is None:
        raise UsageError(f"The model family {family!r} is not known.", f"Give one of {', '.join(FAMILIES)}.")
    return loader(path)

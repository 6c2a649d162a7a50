"""Published models that are known and not supported: named, in place of a list of tensors that do not fit."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from tbps_infer.errors import CheckpointError

__all__ = ["refuse_unsupported"]

# Beginnings of names that a checkpoint has, every one of them; or an entry of the file, after an equals sign.
_MODELS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("UP-Person", (r"LORA_learner\.",), "it puts adapters inside CLIP"),
    ("UP-Person", (r"vit_prefix_learner\.",), "it puts prefixes inside CLIP"),
    ("DM-Adapter", (r"base_model\.(visual\.)?transformer\..*adapter",), "it puts adapters inside CLIP"),
    ("SSAN", (r"ImageExtract\.", r"TextExtract\.", r"non_local_net\."), "its network is not written here"),
    ("SSAN or LGUR", (r"ImageExtract\.", r"TextExtract\."), "its network is not written here"),
    ("CFine, SSAN or LGUR", ("=network$",), "its network is not written here"),
    ("TIPCB", (r"model_img\.", r"model_txt\."), "its network is not written here"),
    ("RaSa", (r"visual_encoder_m\.", r"text_encoder_m\."), "its ranking needs a cross-encoder"),
    ("APTM", (r"vision_encoder\.", r"text_encoder\.", r"itm_head\."), "its ranking needs a cross-encoder"),
    ("PLOT", (r".*slot_",), "its network is not written here"),
)


def refuse_unsupported(path: Path, names: Collection[str]) -> None:
    """Raise CheckpointError when a checkpoint looks like one of a model that is known and not supported.

    Args:
        path: Its file, for the sentence.
        names: Of its tensors, and of the file's own entries after an equals sign.
    """
    lines = "\n".join(names)
    for model, patterns, reason in _MODELS:
        if all(re.search(f"^{pattern}", lines, re.MULTILINE) for pattern in patterns):
            raise CheckpointError(
                f"{path} looks like a checkpoint of {model}, which is not supported: {reason}.",
                "docs/families.md says how to add a family; name one (--family) if it is of that after all.",
            )

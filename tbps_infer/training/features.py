"""Token features of a frozen text backbone, computed once per caption and kept on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tbps_infer.atomic import new_file
from tbps_infer.errors import UsageError
from tbps_infer.reference.backbones import TextBackbone
from tbps_infer.text import pad_ids

__all__ = ["TextFeatures", "cache_text_features"]

BATCH = 64


class TextFeatures:
    """Ragged FP16 rows in a memory-mapped file: caption i owns rows ``starts[i]`` to ``starts[i + 1]``."""

    def __init__(self, file: Path, starts: np.ndarray[tuple[int], np.dtype[np.int64]], hidden: int) -> None:
        self._starts = starts
        self._rows = np.memmap(file, np.float16, "r", shape=(int(starts[-1]), hidden))

    def padded(self, captions: Sequence[int], length: int) -> Tensor:
        """Features of some captions, zero beyond each one's end: float32 ``[len(captions), length, hidden]``."""
        out = np.zeros((len(captions), length, self._rows.shape[1]), np.float32)
        for row, caption in enumerate(captions):
            start, stop = self._starts[caption], self._starts[caption + 1]
            out[row, : stop - start] = self._rows[start:stop]
        return torch.from_numpy(out)


def cache_text_features(
    backbone: TextBackbone,
    tokens: Sequence[Sequence[int]],
    folder: Path,
    device: torch.device,
) -> TextFeatures:
    """Compute, or find from an earlier run, the features of every caption.

    The file's name is a hash of the captions' ids and the backbone's tensors, so features of another model or data
    set are never picked up. It is written whole or not at all.

    Args:
        backbone: Frozen, in eval mode, on `device`.
        tokens: Ids per caption, special tokens included.
        folder: Where the cache lives.
        device: Where the backbone is.
    """
    lengths = np.array([len(row) for row in tokens], np.int64)
    starts = np.concatenate(([0], np.cumsum(lengths)))
    hidden = int(backbone.embeddings.word_embeddings.weight.shape[1])
    file = folder / f"text-features-{_key(backbone, tokens)}.f16"
    if not file.is_file():
        with new_file(file, UsageError, parents=True) as temporary:
            rows = np.memmap(temporary, np.float16, "w+", shape=(int(starts[-1]), hidden))
            order = np.argsort(lengths, kind="stable")
            for start in range(0, len(order), BATCH):
                chosen = order[start : start + BATCH]
                padded = pad_ids([tokens[i] for i in chosen], 0)
                with torch.inference_mode():
                    features = backbone(*(torch.from_numpy(array).long().to(device) for array in padded))
                for caption, values in zip(chosen, features.half().cpu().numpy(), strict=True):
                    rows[starts[caption] : starts[caption + 1]] = values[: lengths[caption]]
            rows.flush()
    return TextFeatures(file, starts, hidden)


def _key(backbone: TextBackbone, tokens: Sequence[Sequence[int]]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(backbone.state_dict().items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensor.detach().cpu().numpy()).data)
    for row in tokens:
        digest.update(np.asarray([len(row), *row], np.int32).data)
    return digest.hexdigest()[:16]

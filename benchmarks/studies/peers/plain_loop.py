"""The loop that public repositories evaluate with: decode, resize, stack a batch, run the model, collect.

Captions are filled up to the model's greatest length, as those repositories' tokenizers do; pictures are resized with
Pillow's bicubic filter. Normalising is left to the model, which has it inside.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from tbps_infer.families.table import SourceModel
from tbps_infer.text import Tokenizer

__all__ = ["embed_captions", "embed_pictures"]


def embed_pictures(source: SourceModel, files: Sequence[bytes], batch: int) -> NDArray[np.float32]:
    """float32 ``[n, dim]``, the files decoded one after the other."""
    height, width = source.facts.preprocessing.image_size
    collected = []
    with torch.no_grad():
        for start in range(0, len(files), batch):
            pictures = []
            for data in files[start : start + batch]:
                picture = Image.open(io.BytesIO(data)).convert("RGB")
                pictures.append(np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC)))
            collected.append(source.image(torch.from_numpy(np.stack(pictures))).cpu())
    embeddings: NDArray[np.float32] = torch.cat(collected).numpy()
    return embeddings


def embed_captions(
    source: SourceModel, tokenizer: Tokenizer, captions: Sequence[str], batch: int
) -> NDArray[np.float32]:
    """float32 ``[n, dim]``, in the order given."""
    length, pad = source.facts.max_length, source.facts.pad_id
    collected = []
    with torch.no_grad():
        for start in range(0, len(captions), batch):
            rows = tokenizer.encode(captions[start : start + batch])
            ids = torch.tensor([[*row, *[pad] * (length - len(row))] for row in rows], dtype=torch.int32)
            mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows], dtype=torch.int32)
            collected.append(source.text(ids, mask).cpu())
    embeddings: NDArray[np.float32] = torch.cat(collected).numpy()
    return embeddings

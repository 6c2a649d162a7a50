"""The judgement after each epoch: retrieval metrics on identities that are neither trained on nor tested on."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from tbps_infer.data.dataset import Split
from tbps_infer.decoding import decode_threads
from tbps_infer.errors import DatasetError
from tbps_infer.evaluation.metrics import retrieval_metrics
from tbps_infer.reference.model import PartModel
from tbps_infer.text import Tokenizer, pad_ids
from tbps_infer.training.batches import CropStore
from tbps_infer.training.options import Term

__all__ = ["Validator", "hold_out_identities"]

BATCH = 64


class Validator:
    """Encodes a split with the model being trained and measures text-to-image retrieval."""

    def __init__(self, model: PartModel, tokenizer: Tokenizer, split: Split, terms: Sequence[Term]) -> None:
        self._model = model
        self._split = split
        self._tokens = tokenizer.encode(split.captions)
        self._pad_id = tokenizer.pad_id
        layout = model.config.layout
        kept = [piece for name, piece in layout.slices.items() if name.split(".")[0] in terms]
        self._columns = np.concatenate([np.arange(piece.start, piece.stop) for piece in kept])
        with ThreadPoolExecutor(decode_threads()) as pool:
            paths = [picture.path for picture in split.pictures]
            self._crops = CropStore(paths, model.config.preprocessing, pool)

    def evaluate(self, device: torch.device) -> dict[str, float]:
        """R@k, mAP and mINP in percent, ties lost; leaves the model in eval mode."""
        images, texts = self.embeddings(device)
        kept = texts[:, self._columns], images[:, self._columns]
        metrics = retrieval_metrics(*kept, self._split.caption_identities, self._split.identities)
        return {f"val_{name}": value for name, value in metrics.headline().items()}

    def embeddings(self, device: torch.device) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Of the pictures and of the captions, float32 ``[n, dim]`` each; leaves the model in eval mode."""
        self._model.eval()
        with torch.inference_mode():
            return self._encode_images(device), self._encode_texts(device)

    def _encode_texts(self, device: torch.device) -> NDArray[np.float32]:
        order = np.argsort([len(row) for row in self._tokens], kind="stable")
        out = np.empty((len(order), self._model.config.layout.dim), np.float32)
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            ids, mask = pad_ids([self._tokens[i] for i in chosen], self._pad_id)
            z = self._model.encode_text(torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device))
            out[chosen] = z.float().cpu().numpy()
        return out

    def _encode_images(self, device: torch.device) -> NDArray[np.float32]:
        count = len(self._split.pictures)
        rows = []
        for start in range(0, count, BATCH):
            crops = np.stack([self._crops[i] for i in range(start, min(start + BATCH, count))])
            rows.append(self._model.encode_image(torch.from_numpy(crops).to(device)).float().cpu().numpy())
        return np.concatenate(rows)


def hold_out_identities(training: Split, count: int, seed: int) -> tuple[Split, Split]:
    """Divide a training split by identity, for data sets without a validation split.

    Args:
        training: The split to divide.
        count: Identities to hold out.
        seed: Random seed.

    Returns:
        The remaining training split, and the held-out one named ``held-out``.

    Raises:
        DatasetError: There are not more identities than are to be held out.
    """
    identities = np.unique(training.identities)
    if not 0 < count < len(identities):
        raise DatasetError(
            f"{training.dataset} has {len(identities)} training identities, and {count} should be held out.",
            "Choose a smaller --validation-identities.",
        )
    held = set(np.random.default_rng(seed).choice(identities, size=count, replace=False).tolist())
    inside = tuple(p for p in training.pictures if p.identity not in held)
    outside = tuple(p for p in training.pictures if p.identity in held)
    return replace(training, pictures=inside), replace(training, name="held-out", pictures=outside)

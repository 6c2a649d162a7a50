"""The decoder's cross-attention in PyTorch, as modules that run or are exported."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tbps_infer.explain.attention import Attention, relative_attention, words_of
from tbps_infer.images import load_crop
from tbps_infer.reference.backbones import additive_mask
from tbps_infer.reference.checkpoint import Checkpoint
from tbps_infer.reference.model import PartModel

if TYPE_CHECKING:
    from tbps_infer.explain.truth import Weights

__all__ = ["ImageAttention", "TextAttention", "attend", "attention_weights"]


class ImageAttention(nn.Module):
    """uint8 ``[batch, height, width, 3]`` to the coarse tokens' weights, float ``[batch, N_c, rows·columns]``."""

    def __init__(self, model: PartModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        """The last decoder layer's weights, averaged over heads; each row sums to 1."""
        memory = self.model.image_memory(self.model.image_features(pixels))
        return self.model.decode(self.model.coarse_tokens, memory, None)[1].mean(dim=1)


class TextAttention(nn.Module):
    """Ids and mask ``[batch, length]`` to the coarse and the text tokens' weights, ``[batch, N_c + K, length]``."""

    def __init__(self, model: PartModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """As `ImageAttention`; padding gets 0."""
        features = self.model.text_backbone(input_ids, attention_mask)
        memory = self.model.text_memory(features, attention_mask)
        mask = additive_mask(attention_mask, features)
        sets = (self.model.coarse_tokens, self.model.part_tokens)
        return torch.cat([self.model.decode(tokens, memory, mask)[1].mean(dim=1) for tokens in sets], dim=1)


def attend(checkpoint: Checkpoint, picture: Path | bytes, sentence: str) -> Attention:
    """As `tbps_infer.explain.attention.attend_onnx`, from the checkpoint itself."""
    config = checkpoint.config
    words, ids, owner = words_of(checkpoint.tokenizer_path, sentence, config.text.max_length)
    crop = load_crop(picture, config.preprocessing)
    with torch.inference_mode():
        seen = ImageAttention(checkpoint.model)(torch.from_numpy(crop)[None])[0].numpy()
        tokens = torch.tensor([ids], dtype=torch.int32)
        read = TextAttention(checkpoint.model)(tokens, torch.ones_like(tokens))[0].numpy()
    return relative_attention(config, words, owner, seen, read)


def attention_weights(model: PartModel, device: str = "cpu") -> Weights:
    """Both modules of a model as arrays to arrays, for `tbps_infer.explain.truth.measure_truth`."""
    image, text = ImageAttention(model), TextAttention(model)

    def weights(
        crops: NDArray[np.uint8], ids: NDArray[np.int32], mask: NDArray[np.int32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        with torch.inference_mode():
            seen = image(torch.from_numpy(crops).to(device))
            read = text(torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device))
        return seen.float().cpu().numpy(), read.float().cpu().numpy()

    return weights

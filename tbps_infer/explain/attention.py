"""The decoder's cross-attention: which cells of a picture and which words each of its learnable tokens reads."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tokenizers
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tbps_infer.bundle import Bundle
from tbps_infer.errors import BundleError
from tbps_infer.images import load_crop
from tbps_infer.reference.backbones import additive_mask
from tbps_infer.reference.checkpoint import Checkpoint
from tbps_infer.reference.config import ModelConfig
from tbps_infer.reference.model import PartModel

__all__ = ["Attention", "ImageAttention", "TextAttention", "attend", "attend_onnx", "words_of"]


@dataclass(frozen=True)
class Attention:
    """What each token reads, averaged over heads and told as a multiple of even attention (1 everywhere).

    Attributes:
        image: float32 ``[N_c, rows, columns]``: the coarse tokens on the picture's feature map.
        words: The sentence's words and punctuation marks, as written.
        coarse: float32 ``[N_c, words]``: the same tokens on the sentence.
        parts: float32 ``[K, words]``: the text tokens; token k is paired with stripe k.
    """

    image: NDArray[np.float32]
    words: tuple[str, ...]
    coarse: NDArray[np.float32]
    parts: NDArray[np.float32]


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
    """What the decoder reads of a picture and of a sentence. Raises ImageError for a picture that is none."""
    config = checkpoint.config
    words, ids, owner = words_of(checkpoint.tokenizer_path, sentence, config.text.max_length)
    crop = load_crop(picture, config.preprocessing)
    with torch.inference_mode():
        seen = ImageAttention(checkpoint.model)(torch.from_numpy(crop)[None])[0].numpy()
        tokens = torch.tensor([ids], dtype=torch.int32)
        read = TextAttention(checkpoint.model)(tokens, torch.ones_like(tokens))[0].numpy()
    return _told(config, words, owner, seen, read)


def attend_onnx(bundle: Bundle, picture: Path | bytes, sentence: str) -> Attention:
    """The same from a bundle that was exported with its attention graphs; raises BundleError for another."""
    from tbps_infer.runners.onnxruntime_runner import OnnxRuntimeRunner
    from tbps_infer.runners.options import RunOptions

    if "image.attention.onnx" not in bundle.files:
        raise BundleError(f"{bundle.path} has no attention graphs.", "Export it again with --with-attention.")
    config = ModelConfig.from_json(dict(bundle.model.config))
    words, ids, owner = words_of(bundle.check_file("tokenizer.json"), sentence, config.text.max_length)
    tokens = np.array([ids], np.int32)
    with closing(OnnxRuntimeRunner(bundle.check_file("image.attention.onnx"), RunOptions())) as runner:
        seen = runner.run({"pixels": load_crop(picture, config.preprocessing)[None]})["image_attention"][0]
    with closing(OnnxRuntimeRunner(bundle.check_file("text.attention.onnx"), RunOptions())) as runner:
        feeds = {"input_ids": tokens, "attention_mask": np.ones_like(tokens)}
        read = runner.run(feeds)["text_attention"][0]
    return _told(config, words, owner, seen, read)


def _told(
    config: ModelConfig,
    words: tuple[str, ...],
    owner: list[int | None],
    seen: NDArray[np.float32],
    read: NDArray[np.float32],
) -> Attention:
    rows, columns = config.map_size
    image = seen.reshape(-1, rows, columns) * (rows * columns)
    merged = np.zeros((len(read), len(words)), np.float32)
    for place, word in enumerate(owner):
        if word is not None:
            merged[:, word] += read[:, place] * len(owner)
    cut = config.coarse_tokens
    return Attention(image.astype(np.float32), words, merged[:cut], merged[cut:])


def words_of(tokenizer: Path, sentence: str, max_length: int) -> tuple[tuple[str, ...], list[int], list[int | None]]:
    """A sentence's words as written, its token ids, and which word each id is a piece of (None: a special token)."""
    model = tokenizers.Tokenizer.from_file(str(tokenizer))
    model.no_padding()
    model.enable_truncation(max_length)
    encoding = model.encode(sentence)
    spans: dict[int, tuple[int, int]] = {}
    for word, (start, stop) in zip(encoding.word_ids, encoding.offsets, strict=True):
        if word is not None:
            first, last = spans.get(word, (start, stop))
            spans[word] = (min(first, start), max(last, stop))
    order = {word: place for place, word in enumerate(sorted(spans))}
    words = tuple(sentence[slice(*spans[word])] for word in order)
    return words, list(encoding.ids), [None if word is None else order[word] for word in encoding.word_ids]

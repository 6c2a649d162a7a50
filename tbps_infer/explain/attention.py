"""The decoder's cross-attention: which cells of a picture and which words each of its learnable tokens reads."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tbps_infer.bundle import Bundle
from tbps_infer.errors import BundleError
from tbps_infer.formats.tokenizers_files import read_tokenizer, tokenizer_errors
from tbps_infer.images import load_crop
from tbps_infer.reference.config import ModelConfig
from tbps_infer.text import MOST_CHARACTERS

__all__ = ["Attention", "AttentionGraphs", "attend_onnx", "has_attention", "relative_attention", "words_of"]

_GRAPHS = ("image.attention.onnx", "text.attention.onnx")


@dataclass(frozen=True)
class Attention:
    """What each token reads, averaged over heads, as a multiple of even attention (1 everywhere).

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


class AttentionGraphs:
    """A bundle's attention graphs, open: any thread may ask, one at a time is answered.

    Raises:
        BundleError: The bundle was exported without them.
        BackendError: ONNX Runtime is not installed.
    """

    def __init__(self, bundle: Bundle) -> None:
        from tbps_infer.runners.onnxruntime_runner import OnnxRuntimeRunner
        from tbps_infer.runners.options import RunOptions

        if not has_attention(bundle):
            raise BundleError(f"{bundle.path} has no attention graphs.", "Export it again with --with-attention.")
        self._config = ModelConfig.from_json(dict(bundle.model.config))
        self._tokenizer = bundle.check_file("tokenizer.json")
        self._lock = threading.Lock()
        with contextlib.ExitStack() as opened:
            image, text = (
                opened.enter_context(contextlib.closing(OnnxRuntimeRunner(bundle.check_file(name), RunOptions())))
                for name in _GRAPHS
            )
            self._image, self._text = image, text
            self._opened = opened.pop_all()

    def attend(self, picture: Path | bytes, sentence: str) -> Attention:
        """What the decoder reads of a picture and of a sentence. Raises ImageError when the picture is none."""
        words, ids, owner = words_of(self._tokenizer, sentence, self._config.text.max_length)
        tokens = np.array([ids], np.int32)
        crop = load_crop(picture, self._config.preprocessing)[None]
        seen, read = self.weights(crop, tokens, np.ones_like(tokens))
        return relative_attention(self._config, words, owner, seen[0], read[0])

    def weights(
        self, crops: NDArray[np.uint8], ids: NDArray[np.int32], mask: NDArray[np.int32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The attention on crops and on sentences, as `tbps_infer.explain.truth.Weights`."""
        with self._lock:
            seen = self._image.run({"pixels": crops})["image_attention"]
            return seen, self._text.run({"input_ids": ids, "attention_mask": mask})["text_attention"]

    def close(self) -> None:
        """Let the graphs go; closing twice is harmless."""
        self._opened.close()


def has_attention(bundle: Bundle) -> bool:
    """Whether a bundle was exported with its attention graphs."""
    return all(name in bundle.files for name in _GRAPHS)


def attend_onnx(bundle: Bundle, picture: Path | bytes, sentence: str) -> Attention:
    """What the decoder reads of a picture and of a sentence, once; raises as `AttentionGraphs` and its `attend`."""
    with contextlib.closing(AttentionGraphs(bundle)) as graphs:
        return graphs.attend(picture, sentence)


def relative_attention(
    config: ModelConfig,
    words: tuple[str, ...],
    owner: list[int | None],
    seen: NDArray[np.float32],
    read: NDArray[np.float32],
) -> Attention:
    """Weights as multiples of even attention, by cells and words.

    Args:
        config: The model's.
        words: The sentence's words.
        owner: Which word each token is a piece of; None for a special token.
        seen: float32 ``[N_c, rows·columns]``, weights on the picture; each row sums to 1.
        read: float32 ``[N_c + K, tokens]``, weights on the sentence.
    """
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
    try:
        model = read_tokenizer(tokenizer)
        model.no_padding()
        model.enable_truncation(max_length)
        with tokenizer_errors():
            encoding = model.encode(sentence[:MOST_CHARACTERS])
    except (OSError, ValueError) as error:
        raise BundleError(f"{tokenizer} cannot read the sentence: {error}.", "Export the bundle again.") from error
    spans: dict[int, tuple[int, int]] = {}
    for word, (start, stop) in zip(encoding.word_ids, encoding.offsets, strict=True):
        if word is not None:
            first, last = spans.get(word, (start, stop))
            spans[word] = (min(first, start), max(last, stop))
    order = {word: place for place, word in enumerate(sorted(spans))}
    words = tuple(sentence[slice(*spans[word])] for word in order)
    return words, list(encoding.ids), [None if word is None else order[word] for word in encoding.word_ids]

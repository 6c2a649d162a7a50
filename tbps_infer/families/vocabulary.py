"""The tokenizer of a checkpoint, from the file that the user has: CLIP's merges, BERT's vocabulary, or one made."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import tokenizers

from tbps_infer.errors import UsageError
from tbps_infer.formats.tokenizers_files import read_tokenizer
from tbps_infer.tokenizer_files import CLIP_SPECIAL_TOKENS, clip_tokenizer, wordpiece_tokenizer

__all__ = ["find_tokenizer"]

_MADE = "tokenizer.json"
_FILES = {"clip": ("bpe_simple_vocab_16e6.txt.gz", "bpe_simple_vocab_16e6.txt", "merges.txt"), "bert": ("vocab.txt",)}
_ENDS = {"clip": CLIP_SPECIAL_TOKENS[1:], "bert": ("[CLS]", "[SEP]")}
_WANTED = {
    "clip": "Put CLIP's bpe_simple_vocab_16e6.txt.gz beside the checkpoint, or name it: --merges FILE.",
    "bert": "Put the vocab.txt of its BERT beside the checkpoint, or name it: --vocab FILE.",
}


def find_tokenizer(
    kind: Literal["clip", "bert"], given: Path | None, beside: Path, vocab_size: int
) -> tokenizers.Tokenizer:
    """Make the tokenizer of a model.

    Args:
        kind: Whose rules.
        given: A file, or a folder to look in; ``beside`` is looked in when not given.
        beside: The folder of the checkpoint.
        vocab_size: Rows of the model's token embedding.

    Raises:
        UsageError: There is no such file, it cannot be read, or its vocabulary is not the model's.
    """
    place = given or beside
    names = (*_FILES[kind], _MADE)
    file = place if place.is_file() else next((place / n for n in names if (place / n).is_file()), None)
    if file is None:
        raise UsageError(f"{place} has no {', '.join(names[:-1])} or {names[-1]} to read captions by.", _WANTED[kind])
    if file.suffix == ".json":
        tokenizer = _made(file)
    else:
        tokenizer = clip_tokenizer(file, vocab_size) if kind == "clip" else wordpiece_tokenizer(file)
    if tokenizer.get_vocab_size() != vocab_size:
        raise UsageError(
            f"{file} has {tokenizer.get_vocab_size()} tokens, and the model knows {vocab_size}.", _WANTED[kind]
        )
    tokens = tokenizer.encode("a").tokens
    if (*tokens[:1], *tokens[-1:]) != _ENDS[kind]:  # a caption's end is where its embedding is read
        raise UsageError(f"{file} does not put {' and '.join(_ENDS[kind])} around a caption.", _WANTED[kind])
    return tokenizer


def _made(file: Path) -> tokenizers.Tokenizer:
    try:
        return read_tokenizer(file)
    except (OSError, ValueError) as error:
        raise UsageError(f"{file} is not a readable tokenizers file: {error}.") from error

"""The tokenizer of a checkpoint, from the file that the user has: merges, a vocabulary, or any `tokenizers` file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tokenizers

from tbps_infer.errors import UsageError
from tbps_infer.formats.tokenizers_files import read_tokenizer
from tbps_infer.tokenizer_files import CLIP_SPECIAL_TOKENS, clip_tokenizer, wordpiece_tokenizer

__all__ = ["TokenizerKind", "find_tokenizer"]

TokenizerKind = Literal["clip", "openai", "bert", "file"]
"""CLIP's rules with the field's mask token, OpenAI's own CLIP, BERT's rules, or whatever a `tokenizers` file does."""

_MADE = "tokenizer.json"


@dataclass(frozen=True)
class _Kind:
    """Which files a tokenizer is made from besides a `tokenizers` file, and what it puts around a caption."""

    files: tuple[str, ...]
    ends: tuple[str, ...]
    wanted: str


_MERGES = ("bpe_simple_vocab_16e6.txt.gz", "bpe_simple_vocab_16e6.txt", "merges.txt")
_WANT_MERGES = "Put CLIP's bpe_simple_vocab_16e6.txt.gz beside the checkpoint, or name it: --merges FILE."
_KINDS = {
    "clip": _Kind(_MERGES, CLIP_SPECIAL_TOKENS[1:], _WANT_MERGES),
    "openai": _Kind(_MERGES, CLIP_SPECIAL_TOKENS[1:], _WANT_MERGES),
    "bert": _Kind(
        ("vocab.txt",),
        ("[CLS]", "[SEP]"),
        "Put the vocab.txt of its BERT beside the checkpoint, or name it: --vocab FILE.",
    ),
    "file": _Kind(
        (),
        (),
        "Put the model's tokenizer.json beside the checkpoint, or name it: --tokenizer FILE. transformers makes one: "
        "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER).",
    ),
}


def find_tokenizer(kind: TokenizerKind, given: Path | None, beside: Path, vocab_size: int) -> tokenizers.Tokenizer:
    """Make the tokenizer of a model.

    Args:
        kind: Whose rules.
        given: A file, or a folder to look in; ``beside`` is looked in when not given.
        beside: The folder of the checkpoint.
        vocab_size: Rows of the model's token embedding.

    Raises:
        UsageError: There is no such file, it cannot be read, or its vocabulary is not the model's.
    """
    rules = _KINDS[kind]
    place = given or beside
    names = (*rules.files, _MADE)
    file = place if place.is_file() else next((place / n for n in names if (place / n).is_file()), None)
    if file is None:
        raise UsageError(f"{place} has no {' or '.join(names)} to read captions by.", rules.wanted)
    tokenizer = _made(file) if file.suffix == ".json" or kind == "file" else _from_words(kind, file, vocab_size)
    size = tokenizer.get_vocab_size()
    # Other models' embeddings are often padded to a round number of rows.
    if size > vocab_size if kind == "file" else size != vocab_size:
        raise UsageError(f"{file} has {size} tokens, and the model knows {vocab_size}.", rules.wanted)
    tokens = tokenizer.encode("a").tokens
    if rules.ends and (*tokens[:1], *tokens[-1:]) != rules.ends:  # a caption's end is where its embedding is read
        raise UsageError(f"{file} does not put {' and '.join(rules.ends)} around a caption.", rules.wanted)
    return tokenizer


def _from_words(kind: TokenizerKind, file: Path, vocab_size: int) -> tokenizers.Tokenizer:
    if kind == "bert":
        return wordpiece_tokenizer(file)
    return clip_tokenizer(file, vocab_size, CLIP_SPECIAL_TOKENS[kind == "openai" :])


def _made(file: Path) -> tokenizers.Tokenizer:
    try:
        return read_tokenizer(file)
    except (OSError, ValueError) as error:
        raise UsageError(f"{file} is not a readable tokenizers file: {error}.") from error

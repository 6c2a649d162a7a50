"""From sentences to token ids: caption rules, the model's tokenizer, padding.

A model's tokenizer is one `tokenizers` file, so the edge device needs no transformers.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import tokenizers
from numpy.typing import NDArray

from tbps_infer.bundle import Bundle
from tbps_infer.errors import BundleError, UsageError
from tbps_infer.formats.tokenizers_files import read_tokenizer, tokenizer_errors
from tbps_infer.model_facts import ModelFacts

__all__ = [
    "CAPTION_RULES",
    "MOST_CHARACTERS",
    "Tokenizer",
    "pad_ids",
]


MOST_CHARACTERS = 4000
"""Of a caption. No model of the field reads as much, and a tokenizer may take the square of it or more."""

_MOST_WORDS = 77


def _tbps_clip_words(caption: str) -> list[str]:
    """TBPS-CLIP's words: lower case, some punctuation (not the comma) to spaces."""
    spaced = re.sub(r"""[.!"()*#:;~]""", " ", caption.lower())
    return re.sub(r"\s{2,}", " ", spaced).rstrip("\n").strip(" ").split(" ")


def _tbps_clip(caption: str) -> str:
    """TBPS-CLIP's: its words, at most 77."""
    return " ".join(_tbps_clip_words(caption)[:_MOST_WORDS])


def _clip(caption: str) -> str:
    """CLIP's: mended Unicode, HTML's entities read twice, spaces collapsed, lower case."""
    import html

    try:
        import ftfy
    except ImportError as error:
        raise UsageError(
            "This model's captions need ftfy, which is not installed.", "Install it: pip install ftfy"
        ) from error
    mended = html.unescape(html.unescape(ftfy.fix_text(caption)))
    return re.sub(r"\s+", " ", mended).strip().lower()


CAPTION_RULES: Mapping[str, Callable[[str], str]] = MappingProxyType(
    {
        "none": str,
        "pre_caption": _tbps_clip,
        "clip": _clip,
        "pre_caption_clip": lambda caption: _clip(_tbps_clip(caption)),
    }
)
"""What is done to a caption before the tokenizer, by the name a bundle gives it."""


class Tokenizer:
    """One model's way from captions to token ids.

    Args:
        file: A `tokenizers` file. Truncation and padding that it may carry are replaced.
        caption_rule: A key of `CAPTION_RULES`.
        max_length: Tokens per caption at most, special tokens included.
        pad_id: The id that fills a batch's shorter captions.

    Raises:
        BundleError: The file cannot be read, the rule is not known, or a number does not fit the file.
    """

    def __init__(self, file: Path, *, caption_rule: str, max_length: int, pad_id: int) -> None:
        if caption_rule not in CAPTION_RULES:
            raise BundleError(
                f"The caption rule {caption_rule!r} is not known; this version knows {', '.join(CAPTION_RULES)}.",
                "Use the version of tbps-infer that wrote the bundle, or a newer one.",
            )
        try:
            tokenizer = read_tokenizer(file)
        except (OSError, ValueError) as error:
            raise BundleError(
                f"{file} is not a readable tokenizers file: {error}.", "Export the bundle again, or copy it again."
            ) from error
        added = tokenizer.num_special_tokens_to_add(is_pair=False)
        if max_length <= added:
            raise BundleError(f"{max_length} tokens leave no room for a caption beside {added} special tokens.")
        if not 0 <= pad_id < tokenizer.get_vocab_size():
            raise BundleError(f"The padding id {pad_id} is not one of the {tokenizer.get_vocab_size()} of {file}.")
        # Cut before the special tokens are added: the last one survives, as every model of the field wants it.
        tokenizer.enable_truncation(max_length)
        tokenizer.no_padding()
        self._file = file
        self._tokenizer = tokenizer
        self._rule = CAPTION_RULES[caption_rule]
        self._cuts_words = caption_rule.startswith("pre_caption")
        self.max_length = max_length
        self.pad_id = pad_id

    @classmethod
    def from_bundle(cls, bundle: Bundle) -> Tokenizer:
        """The tokenizer of a bundle, its file checked against the bundle's hash. Raises BundleError."""
        return cls.from_facts(bundle.check_file(bundle.tokenizer_path.name), bundle.model)

    @classmethod
    def from_facts(cls, file: Path, facts: ModelFacts) -> Tokenizer:
        """The tokenizer in a file, used as a model's facts say. Raises BundleError."""
        return cls(file, caption_rule=facts.caption_rule, max_length=facts.max_length, pad_id=facts.pad_id)

    def encode(self, captions: Sequence[str]) -> list[list[int]]:
        """Turn captions into token ids, special tokens included, each cut to ``max_length``.

        Args:
            captions: Sentences of a person's looks.

        Returns:
            One list of at least one id per caption, of different lengths; `pad_ids` makes a batch of them.

        Raises:
            UsageError: A caption is empty or too long, has nothing that becomes a token, or is not valid Unicode.
            BundleError: The tokenizer cannot read a caption.
        """
        for number, caption in enumerate(captions, start=1):
            if len(caption) > MOST_CHARACTERS:
                raise UsageError(
                    f"Caption {number} has {len(caption):,} characters, and {MOST_CHARACTERS:,} are the most.",
                    "Describe the person in a sentence or two.",
                )
        prepared = [self._rule(caption) for caption in captions]
        for number, caption in enumerate(prepared, start=1):
            if not caption.strip():
                raise _no_words(number, captions[number - 1])
            if not _is_unicode(caption):
                raise UsageError(
                    f"Caption {number} is not valid Unicode text: {caption!r}.", "Give captions in UTF-8."
                )
        rows = []
        for number, encoding in enumerate(self._encodings(prepared), start=1):
            # A caption of control characters alone leaves [CLS] [SEP], which would match some pictures all the same.
            if all(encoding.special_tokens_mask):
                raise _no_words(number, captions[number - 1])
            rows.append(encoding.ids)
        return rows

    def warnings(self, captions: Sequence[str]) -> tuple[str, ...]:
        """What of some captions the model cannot take in: a sentence for what it does not know or leaves out.

        A word is not known where the vocabulary has one unknown token for all such words, as BERT's has. A vocabulary
        of bytes, as CLIP's, spells every word: there, a character is not known where it has no token of its own. In
        both, a word is not known that is spelled letter by letter. What is made of longer pieces counts as known,
        whether or not the model has learned what it means.

        Args:
            captions: As for `encode`, which refuses what has no words.

        Returns:
            The sentences, each once; none where every word is read.
        """
        return tuple(dict.fromkeys(warning for caption in captions for warning in self._warnings(caption)))

    def unknown_words(self, caption: str) -> tuple[str, ...]:
        """The words of a caption that the model does not know, each once, as its caption rule spells them."""
        prepared = self._rule(caption)
        (encoding,) = self._encodings([prepared])
        return tuple(dict.fromkeys(self._unknown_words(encoding, prepared)))

    def _unknown_words(self, encoding: tokenizers.Encoding, prepared: str) -> list[str]:
        runs = _runs(self._unknown_spans(encoding, prepared))
        return [word for start, stop in runs if _says_something(word := prepared[start:stop])]

    def _warnings(self, caption: str) -> Iterator[str]:
        prepared = self._rule(caption)
        (encoding,) = self._encodings([prepared])
        if words := self._unknown_words(encoding, prepared):
            unknown = self._unknown_spans(encoding, prepared)
            read = set(encoding.offsets) - unknown
            if any(prepared[start:stop].isalnum() for start, stop in read):
                yield f"The model does not know {_listed(words)}; the search ignores its meaning."
            else:
                yield f"The model knows no word of the sentence ({_listed(words)}): the results mean nothing."
        left_out = " ".join(_tbps_clip_words(caption)[_MOST_WORDS:]) if self._cuts_words else ""
        if encoding.overflowing:
            rest = encoding.overflowing[0]
            first = rest.offsets[rest.special_tokens_mask.index(0)][0]
            left_out = f"{prepared[prepared.rfind(' ', 0, first) + 1 :]} {left_out}".rstrip()
        if left_out:
            yield f"The sentence is longer than the model reads: {_shortened(left_out)!r} is left out."

    def _encodings(self, prepared: list[str]) -> list[tokenizers.Encoding]:
        try:
            with tokenizer_errors():
                return self._tokenizer.encode_batch(prepared)
        except ValueError as error:
            raise BundleError(f"{self._file} cannot read a caption: {error}.", "Export the bundle again.") from error

    def _unknown_spans(self, encoding: tokenizers.Encoding, prepared: str) -> set[tuple[int, int]]:
        """Where, in the prepared caption, tokens stand for what the vocabulary does not have."""
        words: dict[int, list[tuple[int, int]]] = {}
        for span, word in zip(encoding.offsets, encoding.word_ids, strict=True):
            if word is not None:  # else it is a special token
                words.setdefault(word, []).append(span)
        unknown = {span for spans in words.values() if _is_spelled_out(spans, prepared) for span in spans}
        if isinstance(self._tokenizer.model, tokenizers.models.BPE):
            counts = Counter(span for spans in words.values() for span in spans)
            return unknown | {span for span, count in counts.items() if count > 1 and span[1] - span[0] == 1}
        token_of_all = getattr(self._tokenizer.model, "unk_token", None)
        tokens = zip(encoding.offsets, encoding.tokens, strict=True)
        return unknown | {span for span, token in tokens if token == token_of_all}


def pad_ids(
    rows: Sequence[Sequence[int]], pad_id: int, length: int | None = None
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Make one batch of captions of different lengths.

    Args:
        rows: Token ids, at least one per row: a row with an attention mask of zeros is NaN in some backends.
        pad_id: What fills the shorter rows, at their end.
        length: The batch's length; that of the longest row when not given.

    Returns:
        ids and attention mask (1 for tokens, 0 for filling), both int32 ``[n, length]``.

    Raises:
        UsageError: A row is empty, or longer than ``length``.
    """
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    if lengths.size and lengths.min() < 1:
        raise UsageError(f"Row {int(lengths.argmin())} of the token ids is empty, want at least one token.")
    longest = int(lengths.max(initial=0))
    width = longest if length is None else length
    if width < longest:
        raise UsageError(f"A row of {longest} token ids does not fit a length of {width}.")
    mask = np.arange(width) < lengths[:, None]
    ids = np.full(mask.shape, pad_id, dtype=np.int32)
    if longest:
        ids[mask] = np.concatenate([np.asarray(row, dtype=np.int32) for row in rows])
    return ids, mask.astype(np.int32)


_SPELLED_LETTERS = 4
_WORDS_SHOWN = 3
_CHARACTERS_SHOWN = 60


def _is_spelled_out(spans: Sequence[tuple[int, int]], text: str) -> bool:
    """Whether an alphabet's word is nothing but its letters, one by one: no piece of it is known."""
    letters = [text[start:stop] for start, stop in spans]
    alphabetic = all(len(letter) == 1 and letter.isalpha() and letter.upper() != letter.lower() for letter in letters)
    return alphabetic and len(letters) >= _SPELLED_LETTERS


def _runs(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans that touch, joined: Chinese has a token per character."""
    runs: list[tuple[int, int]] = []
    for start, stop in sorted(spans):
        if runs and runs[-1][1] == start:
            runs[-1] = (runs[-1][0], stop)
        else:
            runs.append((start, stop))
    return runs


def _says_something(word: str) -> bool:
    """Whether there is a letter, a digit or a symbol: a dash that the model does not know changes no meaning."""
    return any(unicodedata.category(letter)[0] in "LNS" for letter in word)


def _listed(words: Sequence[str]) -> str:
    different = list(dict.fromkeys(words))
    more = len(different) - _WORDS_SHOWN
    shown = ", ".join(repr(_shortened(word)) for word in different[:_WORDS_SHOWN])
    return f"{shown} and {more} more" if more > 0 else shown


def _shortened(text: str) -> str:
    return text if len(text) <= _CHARACTERS_SHOWN else f"{text[: _CHARACTERS_SHOWN - 1]}…"


def _is_unicode(caption: str) -> bool:
    try:
        caption.encode("utf-8")
    except UnicodeEncodeError:  # a lone surrogate, which is how Python carries undecodable bytes of a command line
        return False
    return True


def _no_words(number: int, caption: str) -> UsageError:
    return UsageError(
        f"Caption {number} has no words: {caption!r}.", "Describe the person, as in: a woman in a red coat."
    )

"""From sentences to token ids: caption rules, the model's tokenizer, padding, and the making of WordPiece files.

A model's tokenizer is one `tokenizers` file, so the edge device needs no transformers.
"""

from __future__ import annotations

import gzip
import heapq
import html
import re
import string
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors

from tbps_infer.bundle import Bundle, ModelFacts
from tbps_infer.errors import BundleError, UsageError

__all__ = [
    "CAPTION_RULES",
    "CLIP_SPECIAL_TOKENS",
    "SPECIAL_TOKENS",
    "Tokenizer",
    "clip_tokenizer",
    "pad_ids",
    "train_wordpiece",
    "wordpiece_tokenizer",
]

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

CLIP_SPECIAL_TOKENS = ("<|mask|>", "<|startoftext|>", "<|endoftext|>")
"""The last three of a vocabulary, in order: the field's CLIP models give a merge up for the first."""

# BERT's own limit: WordPiece gives up on a longer word and calls it [UNK].
_LONGEST_WORD = 100
_CONTINUES = "##"


def _as_written(caption: str) -> str:
    return caption


def _tbps_clip(caption: str) -> str:
    """TBPS-CLIP's: lower case, some punctuation (not the comma) to spaces, at most 77 words."""
    spaced = re.sub(r"""[.!"()*#:;~]""", " ", caption.lower())
    words = re.sub(r"\s{2,}", " ", spaced).rstrip("\n").strip(" ").split(" ")
    return " ".join(words[:77])


def _clip(caption: str) -> str:
    """CLIP's: mended Unicode, HTML's entities read twice, spaces collapsed, lower case."""
    try:
        import ftfy
    except ImportError as error:
        raise UsageError(
            "This model's captions are mended with ftfy, which is not installed.", "Install it: pip install ftfy"
        ) from error
    mended = html.unescape(html.unescape(ftfy.fix_text(caption)))
    return re.sub(r"\s+", " ", mended).strip().lower()


def _tbps_clip_bpe(caption: str) -> str:
    """TBPS-CLIP's, then CLIP's own."""
    return _clip(_tbps_clip(caption))


CAPTION_RULES: Mapping[str, Callable[[str], str]] = MappingProxyType(
    {"none": _as_written, "pre_caption": _tbps_clip, "clip": _clip, "pre_caption_clip": _tbps_clip_bpe}
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
            tokenizer = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # tokenizers raises no narrower class
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
        self._tokenizer = tokenizer
        self._rule = CAPTION_RULES[caption_rule]
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

    def encode(self, captions: Sequence[str], *, first: int = 1) -> list[list[int]]:
        """Turn captions into token ids, special tokens included, each cut to ``max_length``.

        Args:
            captions: Sentences of a person's looks.
            first: The number of the first one in an error's sentence, for callers that encode in pieces.

        Returns:
            One list of at least one id per caption, of different lengths; `pad_ids` makes a batch of them.

        Raises:
            UsageError: A caption is empty, has nothing that becomes a token, or is not valid Unicode.
        """
        prepared = [self._rule(caption) for caption in captions]
        for number, caption in enumerate(prepared, first):
            if not caption.strip():
                raise _no_words(number, captions[number - first])
            if not _is_unicode(caption):
                raise UsageError(
                    f"Caption {number} is not valid Unicode text: {caption!r}.", "Give captions in UTF-8."
                )
        rows = []
        for number, encoding in enumerate(self._tokenizer.encode_batch(prepared), first):
            # A caption of control characters alone leaves [CLS] [SEP], which would match some pictures all the same.
            if all(encoding.special_tokens_mask):
                raise _no_words(number, captions[number - first])
            rows.append(encoding.ids)
        return rows


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


def wordpiece_tokenizer(
    vocab: Sequence[str] | Path, *, lowercase: bool = True, max_length: int | None = None
) -> tokenizers.Tokenizer:
    """Build BERT's tokenizer from its vocabulary.

    It gives the same ids as transformers' ``BertTokenizer``. Save it with its own ``save(path)``.

    Args:
        vocab: The tokens in order of their ids, or a ``vocab.txt`` with one per line.
        lowercase: Whether captions are lower-cased and lose their accents (the ``uncased`` models).
        max_length: Write this truncation into the file, for programs that use it without `Tokenizer`.

    Raises:
        UsageError: The file cannot be read, or the vocabulary lacks a special token or has one token twice.
    """
    tokens = _read_vocab(vocab) if isinstance(vocab, Path) else list(vocab)
    missing = [token for token in SPECIAL_TOKENS if token not in tokens]
    if missing:
        raise UsageError(f"The vocabulary has no {', '.join(missing)}.", "Use the vocab.txt of a BERT model.")
    ids = {token: index for index, token in enumerate(tokens)}
    if len(ids) != len(tokens):
        twice = Counter(tokens).most_common(1)[0][0]
        raise UsageError(f"The vocabulary has {twice!r} more than once.", "Use the vocab.txt of a BERT model.")
    tokenizer = tokenizers.Tokenizer(
        models.WordPiece(vocab=ids, unk_token="[UNK]", max_input_chars_per_word=_LONGEST_WORD)
    )
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, ids[token]) for token in ("[CLS]", "[SEP]")],
    )
    tokenizer.decoder = decoders.WordPiece(prefix=_CONTINUES)
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    if max_length is not None:
        tokenizer.enable_truncation(max_length)
    return tokenizer


def clip_tokenizer(merges: Path, vocab_size: int) -> tokenizers.Tokenizer:
    """Build the byte-pair tokenizer of the field's CLIP models from CLIP's merges.

    Against CLIP's own it lacks the last merge, whose id (49405 of 49408) is ``<|mask|>``'s.

    Args:
        merges: A header line, then a pair of pieces a line, the most frequent first; also gzipped.
        vocab_size: Rows of the model's token embedding: two alphabets of 256 bytes, the merges used, three special
            tokens.

    Raises:
        UsageError: The file cannot be read, or has too few merges.
    """
    wanted = vocab_size - 2 * 256 - len(CLIP_SPECIAL_TOKENS)
    pairs = _read_merges(merges, wanted)
    letters = _byte_letters()
    pieces = [*letters, *(f"{letter}{_ENDS_WORD}" for letter in letters), *map("".join, pairs), *CLIP_SPECIAL_TOKENS]
    ids = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=ids, merges=pairs, end_of_word_suffix=_ENDS_WORD))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_CLIP_WORD), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    _, start, end = CLIP_SPECIAL_TOKENS
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}", special_tokens=[(token, ids[token]) for token in (start, end)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(CLIP_SPECIAL_TOKENS))
    return tokenizer


_ENDS_WORD = "</w>"
_CLIP_WORD = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"


def _byte_letters() -> list[str]:
    """The letter that stands for each byte in CLIP's files (GPT-2's convention), in the order of their ids."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = 256 - len(printable)
    return [chr(byte) for byte in printable] + [chr(256 + number) for number in range(others)]


def _read_merges(path: Path, count: int) -> list[tuple[str, str]]:
    hint = "Give CLIP's own merges file: bpe_simple_vocab_16e6.txt.gz, or a merges.txt made from it."
    try:
        data = path.read_bytes()
        lines = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8").split("\n")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not a readable merges file: {error}.", hint) from error
    pairs = [tuple(line.split()) for line in lines[1 : count + 1]]
    if count < 0 or len(pairs) < count:
        raise UsageError(f"{path} has {len(pairs)} merges, and the model's vocabulary needs {max(count, 0)}.", hint)
    merges = []
    for number, pair in enumerate(pairs, 2):
        if len(pair) != 2:
            raise UsageError(f"{path}, line {number}: want two pieces with a space between.", hint)
        merges.append((pair[0], pair[1]))
    return merges


def train_wordpiece(captions: Iterable[str], vocab_size: int) -> tokenizers.Tokenizer:
    """Make a lower-case WordPiece tokenizer for a set of captions.

    Pieces are joined by frequency, ties by alphabet, so the same captions in any order give the same file on any
    machine; `tokenizers`' own trainer breaks ties by the order of a hash map. Every ASCII letter, digit and
    punctuation mark is in the vocabulary, letters and digits also as continuations, so that no plain word becomes
    [UNK].

    Args:
        captions: Sentences; each word counts as often as it occurs.
        vocab_size: Entries at most; fewer when all words are whole before that.

    Returns:
        A tokenizer as of `wordpiece_tokenizer`; [PAD] has the id 0.

    Raises:
        UsageError: ``vocab_size`` does not even hold the alphabet.
    """
    words = _count_words(captions)
    seen = {char for word in words for char in word}
    starts = seen | set(string.ascii_lowercase + string.digits + string.punctuation)
    inside = {char for word in words for char in word[1:]} | set(string.ascii_lowercase + string.digits)
    vocab = [*SPECIAL_TOKENS, *sorted(starts), *(_CONTINUES + char for char in sorted(inside))]
    if vocab_size < len(vocab):
        raise UsageError(
            f"A vocabulary of {vocab_size} does not hold the special tokens and the alphabet of these captions.",
            f"Ask for {len(vocab)} or more.",
        )
    known = set(vocab)
    for piece in _joined_pieces(words):
        if len(vocab) == vocab_size:
            break
        if piece not in known:
            known.add(piece)
            vocab.append(piece)
    return wordpiece_tokenizer(vocab)


def _count_words(captions: Iterable[str]) -> Counter[str]:
    normalizer = normalizers.BertNormalizer(lowercase=True)
    splitter = pre_tokenizers.BertPreTokenizer()
    words: Counter[str] = Counter()
    for caption in captions:
        words.update(word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(caption)))
    return Counter({word: count for word, count in words.items() if len(word) <= _LONGEST_WORD})


def _joined_pieces(words: Mapping[str, int]) -> Iterable[str]:
    """Byte-pair encoding: yield, again and again, the most frequent pair of neighbouring pieces as one piece."""
    counts = list(words.values())
    split = [[word[0], *(_CONTINUES + char for char in word[1:])] for word in words]
    totals: Counter[tuple[str, str]] = Counter()
    where: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
    for index, pieces in enumerate(split):
        for pair in pairwise(pieces):
            totals[pair] += counts[index]
            where[pair].add(index)
    # A pair's total changes often; an entry of the heap that no longer says its total is passed over.
    heap = [(-total, pair) for pair, total in totals.items()]
    heapq.heapify(heap)
    while heap:
        negative, pair = heapq.heappop(heap)
        if totals[pair] != -negative or not totals[pair]:
            continue
        joined = pair[0] + pair[1].removeprefix(_CONTINUES)
        yield joined
        changed: set[tuple[str, str]] = set()
        for index in where[pair]:
            before, after = split[index], _join(split[index], pair, joined)
            for step, pieces in ((-counts[index], before), (counts[index], after)):
                for neighbours in pairwise(pieces):
                    totals[neighbours] += step
                    changed.add(neighbours)
                    if step > 0:
                        where[neighbours].add(index)
            split[index] = after
        del where[pair]
        for neighbours in changed:
            if totals[neighbours]:
                heapq.heappush(heap, (-totals[neighbours], neighbours))


def _join(pieces: list[str], pair: tuple[str, str], joined: str) -> list[str]:
    result: list[str] = []
    position = 0
    while position < len(pieces):
        if tuple(pieces[position : position + 2]) == pair:
            result.append(joined)
            position += 2
        else:
            result.append(pieces[position])
            position += 1
    return result


def _read_vocab(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{path} is not a readable vocabulary: {error}.", "Give a BERT model's vocab.txt."
        ) from error
    return text.removesuffix("\n").split("\n")


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

"""Making `tokenizers` files: BERT's from a vocabulary or from captions, CLIP's from its merges."""

from __future__ import annotations

import gzip
import heapq
import string
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors

from tbps_infer.errors import UsageError

__all__ = ["CLIP_SPECIAL_TOKENS", "SPECIAL_TOKENS", "clip_tokenizer", "train_wordpiece", "wordpiece_tokenizer"]

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

CLIP_SPECIAL_TOKENS = ("<|mask|>", "<|startoftext|>", "<|endoftext|>")
"""The last three of a vocabulary, in order: the field's CLIP models give a merge up for the first."""

# BERT's own limit: WordPiece gives up on a longer word and calls it [UNK].
_LONGEST_WORD = 100
_CONTINUES = "##"
_ENDS_WORD = "</w>"
# CLIP ignores case, and ſ is a small s.
_CLIP_WORD = r"'[sſ]|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"


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


def clip_tokenizer(
    merges: Path, vocab_size: int, special_tokens: Sequence[str] = CLIP_SPECIAL_TOKENS
) -> tokenizers.Tokenizer:
    """Build the byte-pair tokenizer of the field's CLIP models from CLIP's merges.

    Against CLIP's own it lacks the last merge, whose id (49405 of 49408) is ``<|mask|>``'s.

    Args:
        merges: A header line, then a pair of pieces a line, the most frequent first; also gzipped.
        vocab_size: Rows of the model's token embedding: two alphabets of 256 bytes, the merges used, the special
            tokens.
        special_tokens: The last of the vocabulary, the start's and the end's at the end; CLIP's own has these alone.

    Raises:
        UsageError: The file cannot be read, or has too few merges.
    """
    wanted = vocab_size - 2 * 256 - len(special_tokens)
    letters = _byte_letters()
    pairs = _read_merges(merges, wanted, letters)
    pieces = [*letters, *(f"{letter}{_ENDS_WORD}" for letter in letters), *map("".join, pairs), *special_tokens]
    ids = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=ids, merges=pairs, end_of_word_suffix=_ENDS_WORD))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_CLIP_WORD), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    start, end = special_tokens[-2:]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}", special_tokens=[(token, ids[token]) for token in (start, end)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(special_tokens))
    return tokenizer


def _byte_letters() -> list[str]:
    """The letter that stands for each byte in CLIP's files (GPT-2's convention), in the order of their ids."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = 256 - len(printable)
    return [chr(byte) for byte in printable] + [chr(256 + number) for number in range(others)]


def _read_merges(path: Path, count: int, letters: Sequence[str]) -> list[tuple[str, str]]:
    hint = "Give CLIP's own merges file: bpe_simple_vocab_16e6.txt.gz, or a merges.txt made from it."
    try:
        data = path.read_bytes()
        lines = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8").split("\n")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not a readable merges file: {error}.", hint) from error
    pairs = [tuple(line.split()) for line in lines[1 : count + 1]]
    if count < 0 or len(pairs) < count:
        raise UsageError(f"{path} has {len(pairs)} merges, and the model's vocabulary needs {max(count, 0)}.", hint)
    known = set(letters) | {f"{letter}{_ENDS_WORD}" for letter in letters}
    merges = []
    for number, pair in enumerate(pairs, 2):
        if len(pair) != 2:
            raise UsageError(f"{path}, line {number}: want two pieces with a space between.", hint)
        unknown = [piece for piece in pair if piece not in known]
        if unknown:
            raise UsageError(
                f"{path}, line {number}: the piece {unknown[0]!r} is no letter and is not made before.", hint
            )
        known.add("".join(pair))
        merges.append((pair[0], pair[1]))
    if merges and not any(second.endswith(_ENDS_WORD) for _, second in merges):
        raise UsageError(f"{path} marks no ends of words ({_ENDS_WORD}): another model's, such as GPT-2's.", hint)
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
            for neighbours in pairwise(before):
                totals[neighbours] -= counts[index]
            for neighbours in pairwise(after):
                totals[neighbours] += counts[index]
                where[neighbours].add(index)
            changed.update(pairwise(before), pairwise(after))
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

"""Token ids equal transformers' own, cut and padded as the graphs expect; a trained vocabulary is reproducible."""

from __future__ import annotations

import json
import string
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tbps_infer.errors import BundleError, UsageError
from tbps_infer.text import CAPTION_RULES, Tokenizer, pad_ids
from tbps_infer.tokenizer_files import SPECIAL_TOKENS, clip_tokenizer, train_wordpiece, wordpiece_tokenizer

CAPTIONS = (
    "A woman in a red coat and black trousers, with a grey backpack.",
    "The man wears a blue T-shirt; his shorts are khaki!",
    "She's carrying a white hand-bag (over the left shoulder) and looks at her phone...",
    "un garçon avec un chapeau à carreaux, naïve façade Ångström",
    "一个穿红色外套的女人 walks",
    "tabs\tand\nnew lines \x00 and \u200b zero width, non breaking",
    "emoji 🧥 and $12.50 + 3% of # @ things",
    "[MASK] and [SEP] are special, [mask] is not",
    "a " + "x" * 101 + " " + "y" * 100 + " overlong words",
    "İstanbul ẞtraße ﬁne",
)
VOCAB = (
    *SPECIAL_TOKENS,
    *string.ascii_lowercase,
    *string.ascii_uppercase,
    *string.digits,
    *string.punctuation,
    *(f"##{c}" for c in string.ascii_letters + string.digits),
    "woman", "man", "red", "coat", "##ers", "trous", "back", "##pack", "##ing", "carry", "the", "ll",
    "一", "红", "女", "人", "é", "à", "##é",
)  # fmt: skip


@pytest.fixture(scope="module")
def vocab_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    file.write_text("\n".join(VOCAB) + "\n", encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    train_wordpiece(CAPTIONS, 400).save(str(file))
    return file


def opened(file: Path, *, caption_rule: str = "none", max_length: int = 64) -> Tokenizer:
    return Tokenizer(file, caption_rule=caption_rule, max_length=max_length, pad_id=0)


@pytest.mark.parametrize("lowercase", [True, False])
def test_wordpiece_equals_transformers(vocab_file: Path, lowercase: bool) -> None:
    from transformers import BertTokenizer
    from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

    ours = wordpiece_tokenizer(vocab_file, lowercase=lowercase)
    fast = BertTokenizer.from_pretrained(vocab_file.parent, do_lower_case=lowercase)
    slow = BertTokenizerLegacy(str(vocab_file), do_lower_case=lowercase)
    for caption in CAPTIONS:
        ids = ours.encode(caption).ids
        assert ids == fast(caption)["input_ids"], caption
        if "[mask]" not in caption or not lowercase:  # transformers' slow tokenizer takes [mask] for [MASK]
            assert ids == slow(caption)["input_ids"], caption
        assert ours.decode(ids) == fast.decode(ids, skip_special_tokens=True)


@settings(max_examples=200, deadline=None)
@given(caption=st.text(max_size=40))
def test_wordpiece_equals_transformers_on_any_text(caption: str) -> None:
    from transformers import BertTokenizer

    fast = BertTokenizer(vocab={token: index for index, token in enumerate(VOCAB)})
    assert wordpiece_tokenizer(VOCAB).encode(caption).ids == fast(caption)["input_ids"]


@pytest.mark.parametrize("max_length", [3, 7, 12, 200])
def test_truncation_equals_transformers_and_keeps_the_last_special_token(
    vocab_file: Path, tmp_path: Path, max_length: int
) -> None:
    from transformers import BertTokenizer

    fast = BertTokenizer.from_pretrained(vocab_file.parent)
    wordpiece_tokenizer(vocab_file).save(str(tmp_path / "tokenizer.json"))
    rows = opened(tmp_path / "tokenizer.json", max_length=max_length).encode(CAPTIONS)
    expected = fast(list(CAPTIONS), truncation=True, max_length=max_length)["input_ids"]
    assert rows == expected
    assert all(len(row) <= max_length and row[-1] == SPECIAL_TOKENS.index("[SEP]") for row in rows)
    wordpiece_tokenizer(vocab_file, max_length=max_length).save(str(tmp_path / "cut.json"))
    own = tokenizers.Tokenizer.from_file(str(tmp_path / "cut.json"))
    assert [encoding.ids for encoding in own.encode_batch(list(CAPTIONS))] == expected


def test_truncation_and_padding_in_the_file_are_replaced(saved: Path, tmp_path: Path) -> None:
    other = tokenizers.Tokenizer.from_file(str(saved))
    other.enable_truncation(4)
    other.enable_padding(length=50)
    other.save(str(tmp_path / "other.json"))
    assert opened(tmp_path / "other.json").encode(CAPTIONS) == opened(saved).encode(CAPTIONS)


def test_pre_caption() -> None:
    """Worked by hand from TBPS-CLIP's rule: ten marks to spaces, the comma stays, 77 words."""
    rule = CAPTION_RULES["pre_caption"]
    assert (
        rule('  The "Man", (tall) wears: a RED coat... #1*2~3; ok!?') == "the man , tall wears a red coat 1 2 3 ok ?"
    )
    assert rule("don't  co-ordinate\n") == "don't co-ordinate"
    assert rule(" ".join(f"w{n}" for n in range(80))) == " ".join(f"w{n}" for n in range(77))
    for mark in '.!"()*#:;~':
        assert rule(f"a{mark}b") == "a b"
    assert CAPTION_RULES["none"]("As  IT is.") == "As  IT is."


def test_the_rule_is_applied_before_the_tokenizer(saved: Path) -> None:
    plain, ruled = opened(saved), opened(saved, caption_rule="pre_caption")
    assert ruled.encode(["a red.coat (new)!"]) == plain.encode(["a red coat new"])
    assert ruled.encode(["a red.coat"]) != plain.encode(["a red.coat"])


@pytest.mark.parametrize("caption", ["", " ", "\t\n", "\u200b", "\x00\x07"])
def test_a_caption_without_words_is_refused(saved: Path, caption: str) -> None:
    with pytest.raises(UsageError, match="Caption 2 has no words") as caught:
        opened(saved).encode(["a man", caption])
    assert "red coat" in caught.value.hint


def test_a_rule_may_leave_no_words(saved: Path) -> None:
    assert opened(saved).encode(["!!!"])
    with pytest.raises(UsageError, match=r"Caption 1 has no words: '!!!'"):
        opened(saved, caption_rule="pre_caption").encode(["!!!"])


def test_undecodable_bytes_of_a_command_line_are_refused(saved: Path) -> None:
    with pytest.raises(UsageError, match="Caption 1 is not valid Unicode"):
        opened(saved).encode([b"a red \xff coat".decode("utf-8", "surrogateescape")])


def test_senseless_facts_are_refused(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"'lower' is not known; .* none, pre_caption"):
        opened(saved, caption_rule="lower")
    with pytest.raises(BundleError, match="2 tokens leave no room for a caption beside 2"):
        opened(saved, max_length=2)
    with pytest.raises(BundleError, match="padding id 99999"):
        Tokenizer(saved, caption_rule="none", max_length=9, pad_id=99999)
    with pytest.raises(BundleError, match=r"missing\.json is not a readable tokenizers file"):
        opened(tmp_path / "missing.json")
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(BundleError, match=r"bad\.json is not a readable tokenizers file"):
        opened(tmp_path / "bad.json")


@given(st.lists(st.lists(st.integers(0, 999), min_size=1, max_size=12), min_size=1, max_size=8), st.integers(0, 5))
def test_padding_keeps_every_row_and_masks_the_rest(rows: list[list[int]], extra: int) -> None:
    longest = max(map(len, rows))
    for length in (None, longest + extra):
        ids, mask = pad_ids(rows, 7, length)
        assert ids.dtype == mask.dtype == np.int32
        assert ids.shape == mask.shape == (len(rows), length or longest)
        for row, row_ids, row_mask in zip(rows, ids, mask, strict=True):
            assert row_ids[: len(row)].tolist() == row and (row_ids[len(row) :] == 7).all()
            assert row_mask.tolist() == [1] * len(row) + [0] * (len(row_ids) - len(row))


def test_a_row_of_no_tokens_or_too_many_is_refused() -> None:
    with pytest.raises(UsageError, match="Row 1 of the token ids is empty"):
        pad_ids([[1], []], 0)
    with pytest.raises(UsageError, match="3 token ids does not fit a length of 2"):
        pad_ids([[1], [1, 2, 3]], 0, 2)
    assert pad_ids([], 0)[0].shape == (0, 0)


def test_a_broken_vocabulary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no \[UNK\], \[MASK\]"):
        wordpiece_tokenizer(["[PAD]", "[CLS]", "[SEP]", "a"])
    with pytest.raises(UsageError, match="'a' more than once"):
        wordpiece_tokenizer([*SPECIAL_TOKENS, "a", "b", "a"])
    with pytest.raises(UsageError, match="not a readable vocabulary"):
        wordpiece_tokenizer(tmp_path / "vocab.txt")


def naive_pieces(words: dict[str, int], count: int) -> list[str]:
    """Byte-pair encoding by its definition, everything counted anew at each step; distinct pieces in order."""
    split = {word: [word[0], *(f"##{c}" for c in word[1:])] for word in words}
    found: list[str] = []
    while len(found) < count:
        totals: Counter[tuple[str, str]] = Counter()
        for word, pieces in split.items():
            for pair in pairwise(pieces):
                totals[pair] += words[word]
        if not totals:
            break
        best = min(totals, key=lambda pair: (-totals[pair], pair))
        joined = best[0] + best[1][2:]
        for word, pieces in split.items():
            merged: list[str] = []
            while pieces:
                if tuple(pieces[:2]) == best:
                    merged.append(joined)
                    pieces = pieces[2:]
                else:
                    merged.append(pieces.pop(0))
            split[word] = merged
        if joined not in found:
            found.append(joined)
    return found


word_lists = st.lists(st.text("abc", min_size=1, max_size=7), min_size=1, max_size=30)


@settings(deadline=None)
@given(words=word_lists, count=st.integers(0, 25))
def test_training_joins_the_most_frequent_pairs(words: list[str], count: int) -> None:
    base = len(train_wordpiece([], 200).get_vocab())
    vocab = train_wordpiece([" ".join(words)], base + count).get_vocab()
    pieces = [token for token, index in sorted(vocab.items(), key=lambda entry: entry[1])][base:]
    assert pieces == naive_pieces(dict(Counter(words)), count)


def test_training_does_not_depend_on_order_and_gives_the_declared_ids() -> None:
    forwards, backwards = train_wordpiece(CAPTIONS, 300), train_wordpiece(reversed(CAPTIONS), 300)
    assert forwards.to_str() == backwards.to_str()
    assert forwards.get_vocab_size() == 300
    assert [forwards.token_to_id(token) for token in SPECIAL_TOKENS] == [0, 1, 2, 3, 4]
    ids = json.loads(forwards.to_str())["model"]["vocab"].values()
    assert sorted(ids) == list(range(300))


@given(st.text(string.printable, max_size=99))
def test_no_plain_text_becomes_unknown(caption: str) -> None:
    assume(not any(token in caption for token in SPECIAL_TOKENS))  # transformers takes them for what they are, too
    trained = train_wordpiece(["a red coat"], 200)
    tokens = trained.encode(caption).tokens
    assert "[UNK]" not in tokens
    lowered = "".join(caption.lower().split())
    assert "".join(token.removeprefix("##") for token in tokens[1:-1]) == lowered


def test_frequent_words_become_whole_tokens() -> None:
    trained = train_wordpiece(["a woman in a red coat"] * 5 + ["purple"], 200)
    assert trained.encode("Red COAT, woman").tokens == ["[CLS]", "red", "coat", ",", "woman", "[SEP]"]


def test_a_vocabulary_below_the_alphabet_is_refused() -> None:
    needed = train_wordpiece([], 200).get_vocab_size()
    assert train_wordpiece([], needed).get_vocab_size() == needed
    with pytest.raises(UsageError, match=f"vocabulary of {needed - 1} does not hold") as caught:
        train_wordpiece([], needed - 1)
    assert str(needed) in caught.value.hint


@pytest.fixture(scope="module")
def spelling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-pair tokenizer as CLIP's: every byte is a token, and は is one of its words."""
    merges = ("m a", "ma n</w>", "r e", "re d</w>", "ã ģ", "ãģ ¯</w>")
    file = tmp_path_factory.mktemp("merges") / "merges.txt"
    file.write_text("\n".join(["#version", *merges]) + "\n", encoding="utf-8")
    clip_tokenizer(file, 2 * 256 + len(merges) + 3).save(str(file.with_name("tokenizer.json")))
    return file.with_name("tokenizer.json")


def _told(words: str) -> str:
    return f"The model does not know {words}; the search ignores its meaning."


@pytest.mark.parametrize(
    ("caption", "warnings"),
    [
        ("a woman — the man carrying a red coat…", ()),
        ("穿外套 🧥", ("The model knows no word of the sentence ('穿外套', '🧥'): the results mean nothing.",)),
        ("xqzvk", ("The model knows no word of the sentence ('xqzvk'): the results mean nothing.",)),
        ("the man, 穿外套 red 🧥 🎒 ½", (_told("'穿外套', '🧥', '🎒' and 1 more"),)),
    ],
)
def test_what_the_model_does_not_know_is_told(vocab_file: Path, caption: str, warnings: tuple[str, ...]) -> None:
    wordpiece_tokenizer(vocab_file).save(str(vocab_file.with_name("tokenizer.json")))
    tokenizer = opened(vocab_file.with_name("tokenizer.json"))
    assert tokenizer.warnings([caption, caption]) == warnings


@pytest.mark.parametrize(
    ("caption", "warnings"),
    [
        ("man red は", ()),
        ("man 穿外 red", (_told("'穿外'"),)),
        ("🧥", ("The model knows no word of the sentence ('🧥'): the results mean nothing.",)),
        ("man xqzvk", (_told("'xqzvk'"),)),
    ],
)
def test_a_vocabulary_of_bytes_knows_the_characters_that_have_a_token(
    spelling: Path, caption: str, warnings: tuple[str, ...]
) -> None:
    assert opened(spelling, caption_rule="none").warnings([caption]) == warnings


def test_words_beyond_the_models_length_are_told(saved: Path) -> None:
    cut = opened(saved, max_length=6).warnings(["a woman in a red coat and black trousers"])
    assert cut == ("The sentence is longer than the model reads: 'red coat and black trousers' is left out.",)
    assert opened(saved, max_length=12).warnings(["a woman in a red coat"]) == ()
    by_rule = opened(saved, caption_rule="pre_caption", max_length=200).warnings
    assert by_rule(["a " * 77]) == ()
    assert by_rule(["a " * 77 + "Red coat!"]) == (
        "The sentence is longer than the model reads: 'red coat' is left out.",
    )

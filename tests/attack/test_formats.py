"""The boundaries of formats: what is no JSON, array or tokenizers file ends in a sentence, within a second."""

from __future__ import annotations

import base64
import io
import json
import sqlite3
import time
import zipfile
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from places import SHIPPED

from tbps_infer.errors import BundleError, UsageError
from tbps_infer.formats.json_files import JsonObject, parse_json, read_json
from tbps_infer.formats.npz_files import read_npz
from tbps_infer.formats.sqlite_files import check_types
from tbps_infer.formats.tokenizers_files import read_tokenizer
from tbps_infer.text import MOST_CHARACTERS, Tokenizer


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 200_000, "nested too deeply"),
        ("[" * 100 + "]" * 100, "nested too deeply"),
        ("1" * 5000, "too large"),
        ("1" * 20, "too large"),
        ("1e999", "too large"),
        ("Infinity", "not a number of JSON"),
        ('{"a": NaN}', "not a number of JSON"),
        ('{"a": 1, "a": 2}', "'a' is there twice"),
        ("{", "Expecting"),
        (b"\xff", "utf-8"),
    ],
)
def test_json_that_is_none_is_refused(text: str | bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_json(text)


def test_a_file_of_json_has_a_size_and_is_an_object(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text('{"a": "' + "x" * 100 + '"}')
    assert set(read_json(file)) == {"a"}
    with pytest.raises(ValueError, match="more than 50 bytes"):
        read_json(file, 50)
    file.write_text("[]")
    with pytest.raises(ValueError, match="its content is a list, want a JSON object"):
        read_json(file)


@pytest.mark.parametrize(
    ("take", "value", "reason"),
    [
        ("text", 5, "m.x is 5, want text"),
        ("integer", True, "m.x is True, want a whole number"),
        ("integer", 1.5, "m.x is 1.5, want a whole number"),
        ("integer", -1, "m.x is -1, want 0 to"),
        ("number", "1", "m.x is '1', want a number"),
        ("boolean", 1, "m.x is 1, want true or false"),
        ("object", [], "m.x is a list, want a JSON object"),
        ("texts", "ab", "m.x is 'ab', want a list"),
        ("texts", ["a", None], r"m.x\[1\] is None, want text"),
        ("integers", [1, "2"], r"m.x\[1\] is '2', want a whole number"),
        ("objects", [{}, 3], r"m.x\[1\] is 3, want a JSON object"),
    ],
)
def test_a_value_of_another_type_is_named(take: str, value: object, reason: str) -> None:
    values = JsonObject({"x": value}, "m")
    with pytest.raises(ValueError, match=reason):
        getattr(values, take)("x")
    with pytest.raises(ValueError, match=r"m\.y is missing"):
        getattr(values, take)("y")


def npz(file: Path, **arrays: Any) -> Path:
    np.savez(file, **arrays)
    return file


WANTED = {"a": ("float32", (2, None))}


def test_arrays_are_read_as_they_were_written(tmp_path: Path) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    file = npz(tmp_path / "a.npz", a=array, other=np.ones(3))
    read = read_npz(file, WANTED)
    assert list(read) == ["a"] and read["a"].flags.writeable
    np.testing.assert_array_equal(read["a"], array)
    np.savez_compressed(file, a=array)
    np.testing.assert_array_equal(read_npz(file, WANTED)["a"], array)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((2, 3), dtype=np.float64), r"float64\[2, 3\], want float32\[2, any\]"),
        (np.zeros((3, 3), dtype=np.float32), r"\[3, 3\], want"),
        (np.zeros(2, dtype=np.float32), "want"),
        (np.asfortranarray(np.zeros((2, 3), dtype=np.float32)), "want"),
        (np.array([[{}], [{}]], dtype=object), "object"),
    ],
)
def test_an_array_of_another_kind_is_refused(tmp_path: Path, array: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_npz(npz(tmp_path / "a.npz", a=array), WANTED)


def test_a_header_that_promises_more_than_there_is_allocates_nothing(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (2, 10**15)})
    file = tmp_path / "a.npz"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.npy", header.getvalue())
    with pytest.raises(ValueError, match="cut short"):
        read_npz(file, WANTED)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", bytes(10 << 20))
    with pytest.raises(ValueError, match="10,485,760 bytes, and 1,048,576 are the most"):
        read_npz(file, WANTED, 1 << 20)


@pytest.mark.parametrize("count", [60, pytest.param(600, marks=pytest.mark.slow)])
def test_a_damaged_archive_is_refused_or_read_as_it_was(tmp_path: Path, count: int) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    file = npz(tmp_path / "a.npz", a=array)
    whole = file.read_bytes()
    rng = np.random.default_rng(count)
    refused = 0
    for number in range(count):
        data = bytearray(whole)
        if number % 3:
            data[rng.integers(len(data))] ^= 1 << rng.integers(8)
        else:
            del data[rng.integers(len(data)) :]
        file.write_bytes(data)
        try:
            np.testing.assert_array_equal(read_npz(file, WANTED)["a"], array)
        except ValueError:
            refused += 1
    assert refused > count // 4


def changed_tokenizer(tmp_path: Path, **parts: Any) -> Path:
    values = json.loads((SHIPPED / "tokenizer.json").read_text(encoding="utf-8")) | parts
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(values), encoding="utf-8")
    return file


def split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def replacement(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"pre_tokenizer": split("(a+)+$")}, "repeats a group"),
        ({"pre_tokenizer": split("(?:a|a)*$")}, "repeats a group"),
        ({"pre_tokenizer": split("(a?){50}b")}, "repeats a group"),
        ({"pre_tokenizer": split(r"(?<x>a\g<x>?b)")}, "calls itself"),
        ({"pre_tokenizer": split("a" * 5000)}, "5000 characters"),
        ({"pre_tokenizer": split("(")}, "."),
        ({"normalizer": replacement({"String": "a"}, "a" * 100)}, "100 times as long"),
        ({"normalizer": replacement({"Regex": ""}, "a" * 100)}, "101 times as long"),
        (
            {"normalizer": {"type": "Sequence", "normalizers": [replacement({"String": "a"}, "aa")] * 30}},
            "times as long",
        ),
        ({"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}] * 100}}, "101 steps|102 steps"),
        ({"model": None}, "."),
        ({"model": 5}, "."),
        ({"added_tokens": 7}, "."),
        ({"pre_tokenizer": {"type": "Unheard"}}, "."),
    ],
)
def test_a_tokenizer_that_could_run_for_ever_is_refused(tmp_path: Path, parts: dict[str, Any], reason: str) -> None:
    started = time.monotonic()
    with pytest.raises(ValueError, match=reason):
        read_tokenizer(changed_tokenizer(tmp_path, **parts))
    assert time.monotonic() - started < 5


def test_patterns_of_published_tokenizers_are_read(tmp_path: Path) -> None:
    for pattern in (
        r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+",
        r"'(?i:[sdmt]|ll|ve)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s+(?!\S)|\s+",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}]*[\p{Ll}\p{Lm}]+(?i:'s|'t|'re)?|\s+",
    ):
        read_tokenizer(changed_tokenizer(tmp_path, pre_tokenizer=split(pattern)))


def test_a_normalizer_as_sentencepiece_makes_it_is_read(tmp_path: Path) -> None:
    """NFKC, whose longest replacement has 18 characters, between patterns that join spaces: as in SigLIP's files."""
    table = base64.b64encode((4).to_bytes(4, "little") + bytes(4) + "صلى الله عليه وسلم".encode() + b"\0")
    steps = [
        {"type": "Lowercase"},
        replacement({"Regex": r"[!\"\#\$%\&\(\)\*]"}, ""),
        replacement({"Regex": r"\s+"}, " "),
        {"type": "Strip", "strip_left": True, "strip_right": True},
        {"type": "Precompiled", "precompiled_charsmap": table.decode()},
        replacement({"Regex": " {2,}"}, " "),
    ]
    read_tokenizer(changed_tokenizer(tmp_path, normalizer={"type": "Sequence", "normalizers": steps}))


def test_a_table_of_many_columns_is_read() -> None:
    """Its rows are from before most of the columns came: they have no bytes for them."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE TABLE record (record INTEGER PRIMARY KEY, sha256 TEXT)")
        connection.executemany("INSERT INTO record VALUES (?, ?)", ((number, "0" * 64) for number in range(2000)))
        for number in range(1900):
            connection.execute(f"ALTER TABLE record ADD COLUMN c{number} NUMERIC")
        check_types(connection, {"record": {"record": "number", "sha256": "text"}, "root": {}})
        connection.execute("UPDATE record SET c1899 = x'00' WHERE record = 1999")
        with pytest.raises(ValueError, match=r"record\.c1899 is of another type"):
            check_types(connection, {"record": {}})


def test_a_panic_of_the_tokenizer_is_a_sentence(tmp_path: Path) -> None:
    """Polynomial, and beyond the limit of tokenizers' regular expressions, which stops its Rust code."""
    file = changed_tokenizer(tmp_path, pre_tokenizer=split(r"\w*\w*\w*\w*\w*[\d%]"))
    tokenizer = Tokenizer(file, caption_rule="none", max_length=20, pad_id=0)
    with pytest.raises(BundleError, match="cannot read a caption"):
        tokenizer.encode(["a" * 2000])


def test_a_caption_has_a_length() -> None:
    tokenizer = Tokenizer(SHIPPED / "tokenizer.json", caption_rule="none", max_length=20, pad_id=0)
    assert tokenizer.encode(["a man " * (MOST_CHARACTERS // 6)])
    with pytest.raises(UsageError, match=r"Caption 2 has 4,001 characters, and 4,000 are the most"):
        tokenizer.encode(["a man", "a" * (MOST_CHARACTERS + 1)])

"""The reader of lists and its users: what they accept, and for every fault a sentence with the file and the line."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tbps_infer.cli.shared.queries import read_queries
from tbps_infer.data.readers import read_dataset
from tbps_infer.errors import DatasetError, SourceError, TbpsError, UsageError
from tbps_infer.lists import ListReader, ListStyle, list_format
from tbps_infer.pruning import source_folder
from tbps_infer.sources import SourceOptions, read_sources

HEADER = b"path,text,caption\n"
FAULTS: dict[str, tuple[str, bytes, int, str, str]] = {
    # name: file, content, line, words of the message, words of the hint
    "too many values": ("q.csv", HEADER + b"a,x,a red coat, blue jeans\n", 2, "4 values for 3 columns", "quotes"),
    "too few values": ("q.csv", HEADER + b"a,x,y\nb\n", 3, "1 value for 3 columns", "comma"),
    "unclosed quote": ("q.csv", HEADER + b'a,x,y\nb,"a man\nc,x,y\nd,x,y\n', 3, "opened and not closed", "Close"),
    "text after a quote": ("q.csv", HEADER + b'a,"x" man,y\n', 2, "not valid CSV", "Close"),
    "quote closed by a later row": ("q.csv", HEADER + b'a,"x\nb,"y",z\n', 2, "not valid CSV", "Close"),
    "long value": (
        "q.csv",
        HEADER + b"a,x,y\nb,x," + b"a" * 131_073,
        3,
        "more than 131,072 characters",
        "not closed",
    ),
    "empty name": ("q.csv", b"path,,text,caption\na,b,x,y\n", 1, "column 2 has no name", ""),
    "trailing comma": ("q.csv", b"path,text,caption,\na,x,y,\n", 1, "column 4 has no name", ""),
    "repeated name": ("q.csv", b"path,text,caption, TEXT\n", 1, "the column 'TEXT' is there twice", ""),
    "missing column": ("q.csv", b"\nid,remark\n1,x\n", 2, "is missing", "id, remark"),
    "empty file": ("q.csv", b"", 1, "is missing", "first line"),
    "two separators": ("q.csv", b"path;text;caption,x\na;x;y,z\n", 1, "commas and semicolons", "--separator"),
    "three separators": ("q.csv", b"\npath\ttext|caption;x\n", 2, "semicolons and tabs and vertical bars", "quotes"),
    "another separator below": ("q.csv", b"path;text;caption\na,x,y\n", 2, "1 value for 3 columns", "semicolon"),
    "too many values between bars": ("q.csv", b"path|text|caption\na|b|c|d\n", 2, "4 values", "vertical bar"),
    "Latin-1": ("q.csv", HEADER + b"a,x,y\nb,x,caf\xe9\n", 3, "not UTF-8", "UTF-8"),
    "UTF-16": ("q.csv", "path,text,caption\n".encode("utf-16"), 1, "not UTF-8", "UTF-8"),
    "Latin-1 far into the file": ("q.csv", HEADER + b"a,x,y\n" * 20_000 + b"b,x,\xe9\n", 20_002, "not UTF-8", ""),
    "NUL": ("q.csv", HEADER + b"a,x,a\0b\n", 2, "NUL", "UTF-8"),
    "NUL in JSON": ("q.jsonl", b'{"path": "a", "text": "x\0", "caption": "y"}\n', 1, "NUL", "UTF-8"),
    "no JSON": ("q.jsonl", b'{"path": "a", "text": "x", "caption": "y"}\n\n{"path": \n', 3, "not valid JSON", ""),
    "endless nesting": ("q.jsonl", b"[" * 100_000, 1, "not valid JSON", ""),
    "no object": ("q.jsonl", b'["text"]\n', 1, "'[\"text\"]' is not a JSON object", ""),
    "repeated name in JSON": ("q.jsonl", b'{"path": "x", "Path": "y"}', 1, "the column 'Path' is there twice", ""),
    "empty name in JSON": ("q.jsonl", b'{"path": "x", "": "y"}', 1, "column 2 has no name", ""),
    "missing name in JSON": ("q.jsonl", b'{"remark": "x"}', 1, "is missing", "remark"),
}


def read(file: Path) -> list[tuple[int, dict[str, Any]]]:
    return [(row.line, row.values) for row in ListReader(file, UsageError).rows(required=("text",))]


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_named_with_file_and_line(tmp_path: Path, fault: str) -> None:
    name, content, line, message, hint = FAULTS[fault]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read(tmp_path / name)
    assert caught.value.message.startswith(f"{tmp_path / name}, line {line}: ")
    assert message in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_rows_carry_the_line_on_which_they_begin(tmp_path: Path, end: str, mark: str) -> None:
    lines = [mark + " id , text", "", '1, "a man, tall"', "2,\t", '3,"two', 'lines"', '4,a 6" heel']
    (tmp_path / "q.CSV").write_bytes(end.join(lines).encode())
    assert read(tmp_path / "q.CSV") == [
        (3, {"id": "1", "text": "a man, tall"}),
        (4, {"id": "2", "text": ""}),
        (5, {"id": "3", "text": f"two{end}lines"}),
        (7, {"id": "4", "text": 'a 6" heel'}),
    ]


def test_json_lines_keep_their_values_and_numbers(tmp_path: Path) -> None:
    (tmp_path / "q.JsonL").write_bytes(b'\xef\xbb\xbf\r\n{"Text": " x ", "id": 7, "more": {"a": [1]}}\r\n')
    assert read(tmp_path / "q.JsonL") == [(2, {"Text": " x ", "id": 7, "more": {"a": [1]}})]


def test_names_are_found_in_any_case(tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text("ID,Text\n1,x\n")
    (row,) = ListReader(tmp_path / "q.csv", UsageError).rows(required=("text",))
    assert (row.get("id"), row.text("text"), row.get("person")) == ("1", "x", None)


@pytest.mark.parametrize("name", ["q.csv", "Q.CSV", "q.jsonl", "q.JSONL", "q.txt", "q", "csv"])
def test_the_extension_tells_the_format_in_any_case(name: str) -> None:
    assert list_format(name) == {".csv": "csv", ".jsonl": "jsonl"}.get(Path(name).suffix.lower())


def test_the_longest_value_that_csv_takes_is_read(tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text("text\n" + "a" * csv.field_size_limit() + "\n")
    assert len(read(tmp_path / "q.csv")[0][1]["text"]) == csv.field_size_limit()


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_rows_are_read_as_they_are_asked_for(form: str) -> None:
    taken = 0

    def endless() -> Iterator[str]:
        nonlocal taken
        if form == "csv":
            yield "text\n"
        while True:
            taken += 1
            yield f"{taken}\n" if form == "csv" else json.dumps({"text": str(taken)}) + "\n"

    rows = ListReader(f"q.{form}", UsageError, endless()).rows(required=("text",))
    assert [next(rows).text("text") for _ in range(3)] == ["1", "2", "3"]
    assert taken == 3


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.csv cannot be read: No such file"):
        read(tmp_path / "none.csv")


USERS: dict[str, tuple[Callable[[Path], object], type[TbpsError]]] = {
    "sources": (lambda file: read_sources([str(file)]), SourceError),
    "queries": (lambda file: list(read_queries([], [str(file)], [])), UsageError),
    "captions": (lambda file: read_dataset(file, "test", check_files=False), DatasetError),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("user", USERS)
def test_every_user_of_lists_is_equally_strict(tmp_path: Path, user: str, fault: str) -> None:
    use, error = USERS[user]
    name, content, line, message, _ = FAULTS[fault]
    for shown in (name, name.upper()):
        (tmp_path / shown).write_bytes(content)
        with pytest.raises(error) as caught:
            use(tmp_path / shown)
        assert caught.value.message.startswith(f"{tmp_path / shown}, line {line}: ")
        assert message in caught.value.message


def test_every_user_drops_the_blanks_around_values(tmp_path: Path) -> None:
    file = tmp_path / "q.csv"
    file.write_text("path , text, caption, camera\n a.jpg , a man,\ta man\t, cam_a \n")
    (item,) = read_sources([str(file)])
    assert (item.path, item.metadata) == (
        tmp_path / "a.jpg",
        {"text": "a man", "caption": "a man", "camera": "cam_a"},
    )
    assert [query.text for query in read_queries([], [str(file)], [])] == ["a man"]
    (picture,) = read_dataset(file, "test", check_files=False).pictures
    assert (picture.path.name, picture.captions, picture.camera) == ("a.jpg", ("a man",), "cam_a")


@pytest.mark.parametrize(
    ("stdin", "texts", "problem"),
    [
        (b'\xef\xbb\xbf{"text": "a man", "id": 7}\r\na woman\r\n', ["a man", "a woman"], ""),
        (b"\xef\xbb\xbfa man\ra woman\r", ["a man", "a woman"], ""),
        (b"a man\ncaf\xe9\na woman\n", ["a man"], "-, line 2: this is not UTF-8 text."),
        (b'a man\n{"text": 3}\n', ["a man"], "-, line 2: the text is 3, want text."),
    ],
)
def test_standard_input_is_read_as_strictly(
    monkeypatch: pytest.MonkeyPatch, stdin: bytes, texts: list[str], problem: str
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="ascii"))
    got: list[str | None] = []
    try:
        got.extend(query.text for query in read_queries([], ["-"], []))
    except UsageError as error:
        assert error.message == problem
    else:
        assert not problem
    assert got == texts


def test_a_text_file_of_queries_may_hold_json_objects_as_standard_input_may(tmp_path: Path) -> None:
    file = tmp_path / "q.txt"
    file.write_text('a man\n{"text": "a woman", "id": 7}\n')
    assert [(query.id, query.text) for query in read_queries([], [str(file)], [])] == [
        ("1", "a man"),
        ("7", "a woman"),
    ]


def test_queries_of_several_sources_have_different_ids(tmp_path: Path) -> None:
    for name in ("a.txt", "b.csv"):
        (tmp_path / name).write_text("text,id\na man,\na woman,7\n" if name == "b.csv" else "a man\na woman\n")
    files = [str(tmp_path / name) for name in ("a.txt", "b.csv")]
    pictures = [tmp_path / "x" / "1.jpg", tmp_path / "y" / "1.jpg", tmp_path / "2.jpg"]
    ids = [query.id for query in read_queries(["a boy"], files, pictures)]
    a, b = files
    assert ids == ["1", f"{a}:1", f"{a}:2", f"{b}:2", "7", str(pictures[0]), str(pictures[1]), "2.jpg"]
    assert [query.id for query in read_queries([], files[:1], [])] == ["1", "2"]


def test_captions_of_one_path_written_in_two_ways_belong_to_one_picture(tmp_path: Path) -> None:
    file = tmp_path / "q.csv"
    file.write_text("path,caption\n./a.jpg,a man\na.jpg,a guy\n")
    assert [picture.captions for picture in read_dataset(file, "test", check_files=False).pictures] == [
        ("a man", "a guy")
    ]


def test_a_camera_may_be_a_number(tmp_path: Path) -> None:
    file = tmp_path / "q.jsonl"
    file.write_text("".join(f'{{"path": "{n}.jpg", "caption": "a man", "camera": {n}}}\n' for n in range(2)))
    assert [picture.camera for picture in read_dataset(file, "test", check_files=False).pictures] == ["0", "1"]


@pytest.mark.parametrize("blank", ["", "  ", "\t", "\u00a0", " \t\r"])
def test_lines_of_any_blanks_are_skipped(tmp_path: Path, blank: str) -> None:
    file = tmp_path / "q.csv"
    file.write_text(f"text\na man\n{blank}\na woman\n", encoding="utf-8")
    assert [values["text"] for _, values in read(file)] == ["a man", "a woman"]


@pytest.mark.parametrize("name", ["q.tsv", "q.json"])
def test_queries_in_an_unknown_format_are_not_searched_as_sentences(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("a man\n")
    with pytest.raises(UsageError, match=r"want \.txt, \.csv or \.jsonl"):
        list(read_queries([], [str(tmp_path / name)], []))


SEPARATED = {"commas": ",", "semicolons": ";", "tabs": "\t", "vertical bars": "|"}


@pytest.mark.parametrize("separator", SEPARATED.values(), ids=SEPARATED)
def test_the_header_tells_the_separator_to_every_user(tmp_path: Path, separator: str) -> None:
    file = tmp_path / "q.csv"
    rows = [("id", "path", "text", "caption"), ("1.10", "a.jpg", f'"a man{separator} tall"', "a man"), *[()] * 2]
    file.write_text("\n".join(separator.join(row) for row in rows))
    (item,) = read_sources([str(file)])
    assert (item.path, item.metadata["text"]) == (tmp_path / "a.jpg", f"a man{separator} tall")
    assert [(query.id, query.text) for query in read_queries([], [str(file)], [])] == [
        ("1.10", f"a man{separator} tall")
    ]
    assert read_dataset(file, "test", check_files=False).pictures[0].captions == ("a man",)


def test_a_separator_that_is_given_is_not_looked_for(tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text("path;note, x\na.jpg;1, 2\n")
    (item,) = read_sources([str(tmp_path / "q.csv")], SourceOptions(style=ListStyle(separator=";")))
    assert item.metadata == {"note, x": "1, 2"}
    with pytest.raises(UsageError, match="separator is ':'"):
        ListStyle(separator=":")


def standard_input(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="ascii"))


@pytest.mark.parametrize(
    ("stdin", "form"),
    [
        (b"\n\xef\xbb\xbf", None),
        (b"a.jpg\nsub/b.jpg\n", None),
        (b"\xef\xbb\xbfpath;id\na.jpg;1\nsub/b.jpg;2\n", None),
        (b'\xef\xbb\xbf\r\n{"path": "a.jpg", "id": 1}\r\n{"path": "sub/b.jpg", "id": "2"}\r\n', None),
        (b"path\na.jpg\n", "txt"),
    ],
)
def test_a_list_of_sources_on_standard_input(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stdin: bytes, form: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    standard_input(monkeypatch, stdin)
    if stdin.startswith(b"\n"):
        return
    items = read_sources(["-"], SourceOptions(style=ListStyle(form)))
    if form == "txt":
        assert [item.path.name for item in items] == ["path", "a.jpg"]
        return
    assert [item.path for item in items] == [tmp_path / "a.jpg", tmp_path / "sub/b.jpg"]
    assert [item.metadata.get("id") for item in items] == ([None] * 2 if stdin.startswith(b"a") else ["1", "2"])


def test_queries_on_standard_input_may_be_csv(monkeypatch: pytest.MonkeyPatch) -> None:
    standard_input(monkeypatch, b"id,text\n1,a man in a red coat\n")
    assert [(query.id, query.text) for query in read_queries([], ["-"], [])] == [("1", "a man in a red coat")]
    standard_input(monkeypatch, b"id,text\n1,a man in a red coat, blue jeans\n")
    with pytest.raises(UsageError, match=r"-, line 2: 3 values for 2 columns"):
        list(read_queries([], ["-"], []))
    standard_input(monkeypatch, b"id,text\n")
    assert [query.text for query in read_queries([], ["-"], [], style=ListStyle("txt"))] == ["id,text"]
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UsageError, match="Standard input is closed"):
        list(read_queries([], ["-"], []))


def test_standard_input_is_read_once() -> None:
    with pytest.raises(SourceError, match="Standard input is named twice"):
        read_sources(["-", "-"])
    with pytest.raises(UsageError, match="Standard input is named twice"):
        list(read_queries([], ["-", "-"], []))


def test_numbers_of_json_are_written_as_they_were(tmp_path: Path) -> None:
    file = tmp_path / "q.jsonl"
    file.write_text('{"id": 1.10, "text": "a man", "person": 12e4}\n')
    (query,) = read_queries([], [str(file)], [])
    assert (query.id, query.person) == ("1.10", "12e4")


@pytest.mark.parametrize("header", ["caption;id", "sentence,person", "query\tid"])
def test_a_header_without_its_column_is_no_sentence(monkeypatch: pytest.MonkeyPatch, header: str) -> None:
    standard_input(monkeypatch, f"{header}\n7\n".encode())
    with pytest.raises(UsageError, match="could be text or a CSV header without the column 'text'"):
        list(read_queries([], ["-"], []))
    standard_input(monkeypatch, f"{header}\n".encode())
    assert [query.text for query in read_queries([], ["-"], [], style=ListStyle("txt"))] == [header]


def test_a_list_in_a_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.ppm").touch()
    pipe = tmp_path / "pipes" / "63"
    pipe.parent.mkdir()
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=("path;id\na.ppm;1\n",))
    writer.start()
    (item,) = read_sources([str(pipe)])
    writer.join()
    assert (item.path, item.metadata) == (tmp_path / "a.ppm", {"id": "1"})
    assert source_folder(str(pipe)) == tmp_path

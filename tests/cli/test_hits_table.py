"""The table of hits, on terminals of any width and elsewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tbps_infer.cli.shared import hits_table as table
from tbps_infer.cli.shared.queries import Query
from tbps_infer.gallery import Hit

HITS = [
    Hit(
        1,
        Path("/cam/衣服.jpg"),
        0.5,
        {"whole": 0.5},
        {"id": "7", "note": "a long note in several words", "place": "北京"},
    ),
    Hit(2, Path("/cam/b.jpg"), 0.25, {"whole": 0.25}, {}),
]
CODES = re.compile(r"\x1b\[[0-9;]*m|\x1b\]8;;[^\x1b]*\x1b\\")


def shown(monkeypatch: pytest.MonkeyPatch, columns: int, *, styles: bool = False, person: str | None = None) -> str:
    monkeypatch.setattr(table, "_width", lambda: columns)
    monkeypatch.setattr(table, "styles_shown", lambda: styles)
    return table.hits_table(Query("1", "a man\x1b[31m", person=person), HITS, ["whole"])


def test_a_wide_table_is_aligned_by_columns_not_by_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = shown(monkeypatch, 1000).splitlines()
    assert lines[0] == r"a man\u001b[31m"
    assert lines[1] == "rank  score  whole  picture        metadata"
    assert lines[2] == "   1  0.500  0.500  /cam/衣服.jpg  id=7 note=a long note in several words place=北京"
    assert lines[3] == "   2  0.250  0.250  /cam/b.jpg"


def test_a_narrow_table_wraps_metadata_between_words(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = shown(monkeypatch, 30).splitlines()
    assert lines[1] == "rank  score  whole"
    below = ["      /cam/衣服.jpg", "      id=7 note=a long note in", "      several words place=北京"]
    assert lines[3:] == [*below, "   2  0.250  0.250", "      /cam/b.jpg"]


def test_styles_change_nothing_but_the_look(monkeypatch: pytest.MonkeyPatch) -> None:
    for columns in (30, 1000):
        plain = shown(monkeypatch, columns, person="7")
        styled = shown(monkeypatch, columns, styles=True, person="7")
        assert "✓" in plain and "?" in plain and "\x1b" not in plain
        assert "\x1b[32m" in styled and "\x1b]8;;file:///cam/b.jpg\x1b\\" in styled
        assert CODES.sub("", styled) == plain


def test_without_hits_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "styles_shown", lambda: False)
    assert table.hits_table(Query("1", "a man", warnings=("Nothing.",)), [], ["whole"]) == "a man\nNothing.\n"

"""Hits as CSV: names that clash, formulas, and characters that a terminal would obey."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from tbps_infer.gallery import Hit
from tbps_infer.layout import Segment, VectorLayout
from tbps_infer.render.hits_csv import HitsCsv
from tbps_infer.render.printable import printable, printable_line

LAYOUT = VectorLayout((Segment("global", 4), Segment("fine.0", 2)))


def _table(metadata: dict[str, str | int | float], *added: tuple[str, object]) -> list[list[str]]:
    out = io.StringIO(newline="")
    table = HitsCsv(out, LAYOUT, list(metadata), [name for name, _ in added])
    hit = Hit(7, Path("/p/a.jpg"), -0.25, {"global": -0.5, "fine.0": 0.25}, metadata)
    table.add(1, hit, [value for _, value in added])
    return list(csv.reader(io.StringIO(out.getvalue(), newline="")))


def test_metadata_is_in_columns_and_gives_way_where_names_clash() -> None:
    metadata: dict[str, str | int | float] = {"id": "3", "Score": 1, "meta_Score": 2, "global": "g", "query": "q"}
    head, row = _table(metadata, ("query_id", "1"), ("query", "a man"))
    assert head == [
        *("query_id", "query", "rank", "record", "score", "path"),
        *("id", "meta_Score", "meta_meta_Score", "meta_global", "meta_query", "global", "fine.0"),
    ]
    assert row == ["1", "a man", "1", "7", "-0.250000", "/p/a.jpg", "3", "1", "2", "g", "q", "-0.500000", "0.250000"]


@pytest.mark.parametrize("start", list("=+-@\t\r\n＝＋－＠"))
def test_no_cell_is_a_formula_for_a_spreadsheet(start: str) -> None:
    evil = f'{start}HYPERLINK("http://x")'
    head, row = _table({f"{evil}2": evil}, (evil, evil))
    cells = [head[0], row[0], head[5], row[5]]
    escaped = printable(f"'{evil}")
    assert cells == [escaped, escaped, f"{escaped}2", escaped]
    assert _table({"n": -5})[1][4] == "-5"


def test_what_a_terminal_obeys_is_spelled_out_and_json_stays_the_same() -> None:
    evil = "\x1b[31mred\x1b]0;own\x07 \x9b2J \u202egnp.exe \udcff \r\b"
    assert printable(evil) == (r"\u001b[31mred\u001b]0;own\u0007 \u009b2J \u202egnp.exe \udcff \u000d\u0008")
    assert json.loads(printable(json.dumps(evil, ensure_ascii=False))) == evil
    assert printable("a\n\tb 👩\u200d👧 é") == "a\n\tb 👩\u200d👧 é"
    assert printable_line("a\n\tb") == r"a\u000a\u0009b"

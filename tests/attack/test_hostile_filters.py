"""What strangers write into a filter is refused in a sentence, at once, and everybody else goes on searching."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from serve_world import World

from tbps_infer.errors import FilterError
from tbps_infer.gallery import Filter, Gallery
from tbps_infer.gallery.filters import matching_records
from tbps_infer.serve.options import BatchOptions, ServeOptions

DOUBLED = "||".join("x" * 10)
LONG_CALL = (
    "(with a0(x) as (select 'aaaaaaaaaa'), "
    + ", ".join(f"a{n}(x) as materialized (select {DOUBLED} from a{n - 1})" for n in range(1, 7))
    + " select instr(x||x, x||'b') from a6) > 0"
)
LATER = f"case when julianday('now') < 2460000.5 then 1 else {LONG_CALL} end"
MEMORY = (
    "length(" + "||".join(["path"] * 90) + ") + (select count(distinct r.path || s.path) from records r, records s)"
)

SUBQUERIES = (
    "exists (select tbps_sha256 from record)",
    "exists(select 1)",
    "(select 1)",
    "(SELECT sql FROM sqlite_master)",
    "(select name from sqlite_schema)",
    "(select reason from reject)",
    "(select name from pragma_table_info('record'))",
    "(select value from json_each('[1]'))",
    "id in (select id from records)",
    "id in (values (1))",
    "(values (1))",
    "id = (select min(id) from records)",
    "(select count(*) from records a, records b, records c, records d)",
    "1 union select 1",
    "1 except select 1",
    "1 intersect select 1",
)
TABLE_EXPRESSIONS = (
    LONG_CALL,
    "(with records as (select tbps_sha256 s from record) select s = 'secret' from records)",
    "(with recursive c(x) as (select 1 union all select x + 1 from c) select max(x) from c)",
    "with x as (select 1) select 1",
)
FUNCTIONS = (
    *(
        "load_extension('x.so')",
        "readfile('/etc/passwd')",
        "writefile('/tmp/x', 'y')",
        "edit('x')",
        "fts3_tokenizer('x')",
    ),
    *("randomblob(1000000000)", "zeroblob(1000000000)", "random()", "hex(path)", "unhex('00')", "quote(path)"),
    *(
        "printf('%1000000000d', 1)",
        "format('%1000000000d', 1)",
        "replace(path, 'p', path)",
        "char(1, 2)",
        "unicode(id)",
    ),
    *("concat(path, path)", "concat_ws(',', path, path)", "group_concat(path)", "string_agg(path, ',')"),
    *("count(*) > 1", "sum(shelf) over () > 1", "max(record)", "total(record)", "avg(record)"),
    *("json_extract(note, '$')", "json_group_array(id)", "json('[]')", "instr(path, 'x')", "soundex('x')"),
    *("sqlite_version() > '3'", "sqlite_source_id()", "last_insert_rowid()", "changes()", "total_changes()"),
    *("sqlite_compileoption_get(1)", "sqlite_offset(id)", "subtype(id)", "likelihood(1, 0.5)", "raise(abort, 'x')"),
    *("tbps_seconds(time)", "regexp('a', id)", "match('a', id)", "iif(1, 2, 3)", "pow(9, 9)", "rtreecheck('x')"),
)
MARKS = (
    *("path || path", "path||path = ''", "1 -- x", "1 /* x", "1 /* x */", "1; delete from record", ";"),
    *("1) UNION SELECT 1 --", "1) or (1", "1)) --", "id = ?", "id = ?1", "id = :x", "id = @x", "id = $x"),
    *("record.tbps_sha256 = 'secret'", "main.record.id = 1", "x'00' = id", "X'00' = id", "note -> '$' = 1"),
    *(
        "note ->> '$' = 1",
        "1 & 1",
        "1 | 1",
        "~1",
        "1 << 62",
        "1 >> 1",
        '"id',
        "[id",
        "`id",
        "'id",
        "1 \\ 1",
        "id = 1\0",
    ),
)
OTHERS = (
    *("(delete from record)", "(attach 'x' as y)", "(pragma user_version)", "attach 'x' as y", "pragma user_version"),
    *("case when 1 then 2 end", LATER, "id glob '*a*'", "id regexp 'a'", "id match 'a'", "id collate nocase = 'a'"),
    *("id is 3", "id isnull", "id notnull", "id = null", "(1, 2) = (1, 2)", "id between 1", "not", "*", "rowid = 1"),
    *("tbps_sha256 = 'x'", '"tbps_row" = 1', "sqlite_master", "current_timestamp", "id like id", "id like '%' || id"),
    *("id escape 'x'", "id like '%' escape ''", "cast(id as blob)", "cast(id as x)", "date(", "lower()", MEMORY),
    *("strftime(path)", "coalesce(1)", "substr('a')", "round(1, 2, 3)", "1 1", "id in ()", "id in (id)", "+ 1"),
)  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = World(tmp_path_factory.mktemp("attack"))
    world.add(range(6))
    return world


@pytest.fixture(scope="module")
def gallery(world: World) -> Iterator[Gallery]:
    with Gallery.open(world.gallery) as opened:
        yield opened


@pytest.mark.parametrize(
    ("expression", "named"),
    [
        *((one, "subquery|unexpected") for one in SUBQUERIES),
        *((one, "common table expression") for one in TABLE_EXPRESSIONS),
        *((one, "function|matching other than LIKE|CASE") for one in FUNCTIONS),
        *((one, "cannot be used") for one in (*MARKS, *OTHERS)),
    ],
    ids=lambda text: text[:40],
)
def test_what_leaves_the_grammar_is_refused(gallery: Gallery, expression: str, named: str) -> None:
    start = time.monotonic()
    with pytest.raises(FilterError, match=named) as raised:
        gallery.selected(Filter(where=expression))
    assert time.monotonic() - start < 2
    assert "Allowed are and, or, not" in raised.value.hint and "record, path, id, camera, time" in raised.value.hint
    assert len(raised.value.message) < 400
    assert len(gallery.selected(Filter(where="record > 0")).records) == 6


def test_the_attacks_are_those_that_were_seen() -> None:
    assert len(LONG_CALL) > 470 and len({*SUBQUERIES, *TABLE_EXPRESSIONS, *FUNCTIONS, *MARKS, *OTHERS}) >= 85


def search(client: TestClient, where: str | None = None, **filters: Any) -> Any:
    return client.post("/api/v1/search", json={"texts": ["a hat"], "filter": {"where": where, **filters}})


@pytest.mark.parametrize("where", [LONG_CALL, LATER, MEMORY], ids=["long call", "slow later", "memory"])
def test_the_server_refuses_them_and_goes_on(world: World, where: str) -> None:
    with world.client() as client:
        for _ in range(3):
            answer = search(client, where)
            assert answer.status_code == 422 and "cannot be used" in answer.json()["error"]["message"]
        assert client.get("/healthz").json() == {"status": "ready"}
        assert len(search(client, "record <= 3").json()["hits"]) == 3


def test_a_filter_is_evaluated_once_whatever_it_finds(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluated = []

    def counted(connection: Any, wanted: Filter, *others: Any, **options: Any) -> Any:
        evaluated.append(wanted.where)
        return matching_records(connection, wanted, *others, **options)

    for module in ("tbps_infer.gallery.changes", "tbps_infer.gallery.reader"):
        monkeypatch.setattr(f"{module}.matching_records", counted)
    with world.client() as client:
        for where in ("record < 3", "record > 99", "date('now') > '2024' and record = 1", "date('now') < '2024'"):
            answer = search(client, where, camera=["cam_a", "cam_b"]).json()
            assert answer["searched"] == len(answer["hits"])
            assert [one for one in evaluated if one] == [where]
            evaluated.clear()
        chosen = {
            "records": [5, 2, 2],
            "format": "csv",
            "search": {"texts": ["a hat"], "filter": {"where": "id = 'x'"}},
        }
        assert client.post("/api/v1/export", json=chosen).text.count("\n") == 3
        assert not evaluated


def test_a_slow_filter_ends_at_its_deadline_and_holds_up_none_without_an_expression(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with world.client(ServeOptions(batch=BatchOptions(answer_seconds=0.5))) as client:
        monkeypatch.setattr(client.app.state.service, "expressions", asyncio.Semaphore(0))  # type: ignore[attr-defined]
        assert len(search(client, camera=["cam_a"]).json()["hits"]) == 3
        answer = search(client, "record = 1")
        assert answer.status_code == 503 and "Other filters take long" in answer.json()["error"]["message"]
        assert answer.headers["retry-after"] == "5"


def test_a_filter_of_another_moment_finds_what_the_snapshot_has(tmp_path: Path) -> None:
    growing = World(tmp_path)
    growing.add(range(4))
    with growing.client() as client:
        gallery = client.app.state.service.searcher.gallery  # type: ignore[attr-defined]
        gallery._look_after = time.monotonic() + 1000
        growing.add(range(4, 8))
        assert gallery.matching(Filter(where="record > 2"), 2).tolist() == [3, 4, 5, 6, 7, 8]
        answer = search(client, "record > 2").json()
        assert sorted(hit["record"] for hit in answer["hits"]) == [3, 4] and answer["searched"] == 2
        gallery._look_after = 0
        assert search(client, "record > 2").json()["searched"] == 6

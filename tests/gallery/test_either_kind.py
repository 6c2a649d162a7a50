"""What holds of a folder and of a dataset alike: the two protocols, and that both answer the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_vectors import embeddings
from gallery_contents import FACTS, VECTORS, entries, entry, fill

from tbps_infer.errors import FilterError, GalleryError, ModelMismatchError, UsageError
from tbps_infer.gallery import (
    Entry,
    Filter,
    Reject,
    Removal,
    SearchOptions,
    compact_gallery,
    merge_galleries,
    open_gallery,
    open_gallery_writer,
    remove_records,
    why_nothing,
)
from tbps_infer.gallery.expressions.lance import OtherRulesError, to_lance
from tbps_infer.gallery.expressions.parse import parse
from tbps_infer.runners.fake import fake_facts

KINDS = {"folder": "gallery", "dataset": "gallery.lance"}
QUERIES = embeddings(FACTS.layout, 7, seed=5)


@pytest.fixture(params=list(KINDS))
def name(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / KINDS[request.param]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same records in a folder and in a dataset."""
    folder = tmp_path_factory.mktemp("both")
    fill(folder / "gallery")
    fill(folder / "gallery.lance")
    return folder / "gallery", folder / "gallery.lance"


def test_a_new_gallery_is_empty(name: Path) -> None:
    with open_gallery_writer(name, FACTS) as writer:
        assert writer.stamp(Path("/pictures/000.jpg")) is None
        assert not writer.was_removed(Path("/pictures/000.jpg"), "0" * 64)
    with open_gallery(name) as gallery:
        assert (gallery.count, gallery.columns) == (0, ("id", "camera", "time"))
        assert gallery.search(QUERIES) == [[]] * 7
        assert gallery.model == FACTS
        assert why_nothing(gallery, Filter()) == "The gallery is empty."


def test_what_is_committed_is_there(name: Path) -> None:
    fill(name, range(5))
    with open_gallery_writer(name) as writer:
        assert writer.stamp(entry(3).path) == entry(3).stamp
        assert writer.find(entry(3).path) == Entry(
            entry(3).path, entry(3).stamp, {**dict.fromkeys(("time", "note", "floor no.")), **entry(3).metadata}
        )
    with open_gallery(name) as gallery:
        records = list(gallery.records())
        assert [record.record for record in records] == sorted(record.record for record in records)
        assert {record.path: dict(record.metadata) for record in records} == {
            each.path: each.metadata for each in entries(range(5))
        }
        numbers = np.array([record.record for record in records])
        places = [int(record.path.stem) for record in records]
        np.testing.assert_array_equal(gallery.vectors_of(numbers), VECTORS[places].astype(np.float16))
        assert gallery.verify() == 1
        assert all(record.embedded_s is not None and record.embedded_s > 1e9 for record in records)
        with pytest.raises(UsageError, match="There is no record 99"):
            gallery.vectors_of(np.array([99]))


def test_a_changed_picture_keeps_its_number_and_what_is_not_said_of_it(name: Path) -> None:
    fill(name, range(4))
    with open_gallery(name) as gallery:
        before = {record.path: record.record for record in gallery.records()}
    with open_gallery_writer(name) as writer:
        writer.commit([entry(2, {"NOTE": "new"}, content=1)], VECTORS[50:51])
        writer.commit(unchanged=[entry(1, {"camera": "moved", "shelf": 4})])
        writer.commit(unchanged=entries([0, 3]))
    with open_gallery(name) as gallery:
        after = {record.path: record for record in gallery.records()}
        assert {path: record.record for path, record in after.items()} == before
        changed, moved = after[entry(2).path], after[entry(1).path]
        assert changed.metadata == {**entry(2).metadata, "note": "new"}
        assert changed.stamp == entry(2, content=1).stamp
        assert moved.metadata == {**entry(1).metadata, "camera": "moved", "shelf": 4}
        np.testing.assert_array_equal(
            gallery.vectors_of(np.array([changed.record])), VECTORS[50:51].astype(np.float16)
        )
        assert gallery.count == 4


def test_rejected_and_unreachable_pictures_are_listed(name: Path) -> None:
    fill(name, range(3))
    with open_gallery_writer(name) as writer:
        writer.commit(
            rejects=[Reject(entry(1).path, "It is none."), Reject(Path("/x"), "It's another.")],
            unreachable=[Reject(entry(2).path, "The share is away.")],
        )
        assert writer.paths_below(Path("/pictures")) == [entry(0).path, entry(2).path]
        assert writer.paths_below(Path("/x"), rejects=True) == [Path("/x")]
    with open_gallery(name) as gallery:
        assert gallery.count == 2
        assert gallery.rejects == [Reject(entry(1).path, "It is none."), Reject(Path("/x"), "It's another.")]
        assert gallery.unreachable == [Reject(entry(2).path, "The share is away.")]
    with open_gallery_writer(name) as writer:
        writer.commit(entries([1]), VECTORS[1:2], unchanged=entries([2]))
        writer.forget_rejects([Path("/x")])
        assert writer.remove_paths([entry(0).path]) == 1
        assert not writer.was_removed(entry(0).path)
    with open_gallery(name) as gallery:
        assert (gallery.count, gallery.rejects, gallery.unreachable) == (2, [], [])


def test_what_was_removed_stays_out_until_it_is_embedded_on_purpose(name: Path) -> None:
    fill(name, range(6))
    assert remove_records(name, Removal(paths=(entry(0).path, Path("/pictures/00")))) == 1
    assert remove_records(name, Filter(camera=("cam_b",))) == 2
    assert remove_records(name, Removal(older_than_s=1.0)) == 2, "those whose time is long ago"
    with open_gallery_writer(name) as writer:
        assert writer.was_removed(entry(0).path) and writer.was_removed(Path("/y"), entry(4).stamp.sha256)
        writer.commit(entries([0]), VECTORS[:1])
        assert not writer.was_removed(entry(0).path, entry(0).stamp.sha256)
    assert compact_gallery(name).kept == 2
    assert remove_records(name, Removal(), purge=True) == 0
    with open_gallery(name) as gallery:
        assert gallery.count == 2
        assert {(stone.sha256, stone.path) for stone in gallery.tombstones} == {
            (entry(number).stamp.sha256, None) for number in (1, 2, 3, 4)
        }
        assert gallery.verify() >= 1


def test_another_models_rows_are_refused(name: Path) -> None:
    fill(name, range(3))
    other = fake_facts((16, 8), layout=FACTS.layout).identified("other weights", "")
    with pytest.raises(ModelMismatchError, match="cannot be compared"), open_gallery_writer(name, other):
        pass
    with open_gallery(name) as gallery, pytest.raises(ModelMismatchError):
        gallery.require_model(other)


def test_vectors_that_are_no_embeddings_are_refused(name: Path) -> None:
    with open_gallery_writer(name, FACTS) as writer:
        with pytest.raises(GalleryError, match="squared norm"):
            writer.commit(entries([0]), 2 * VECTORS[:1])
        with pytest.raises(GalleryError, match="holds numbers in this column"):
            writer.commit(entries([0]), VECTORS[:1])
            writer.commit([entry(1, {"floor no.": "ground"})], VECTORS[1:2])
        with pytest.raises(GalleryError, match="is reserved"):
            writer.commit([entry(2, {"record": 3})], VECTORS[2:3])
    with open_gallery(name) as gallery:
        assert gallery.count == 1


SEARCHES: list[tuple[Filter | str | None, SearchOptions]] = [
    (None, SearchOptions()),
    (None, SearchOptions("exact", min_score=0.2)),
    (None, SearchOptions("scan", per_id=True, threads=1)),
    (Filter(camera=("cam_a",), after="2024-03-04", before="2024-03-20T10:00+02:00"), SearchOptions()),
    (Filter(id=("3", "4"), not_id=("4",)), SearchOptions()),
    (Filter(not_id=("3",)), SearchOptions()),
    ("\"floor no.\" < 4 and note like 'a%'", SearchOptions()),
    ("length(note) = 4", SearchOptions()),
    ("note is not null or record > 3", SearchOptions("scan")),
]


@pytest.mark.parametrize(("where", "options"), SEARCHES)
def test_both_kinds_find_the_same(
    both: tuple[Path, Path], where: Filter | str | None, options: SearchOptions
) -> None:
    answers = []
    for each in both:
        with open_gallery(each) as gallery:
            result = gallery.search_with_report(QUERIES, 8, where, options)
            wanted = Filter(where=where) if isinstance(where, str) else where or Filter()
            assert result.report.searched == gallery.passing(wanted)
            answers.append([[(h.path, h.score, h.split, h.metadata) for h in hits] for hits in result.hits])
    assert answers[0] == answers[1]


def test_equal_scores_come_in_the_order_of_records(name: Path) -> None:
    with open_gallery_writer(name, FACTS) as writer:
        for number in range(8):
            writer.commit(entries([number]), VECTORS[:1])
    with open_gallery(name) as gallery:
        hits = gallery.search(QUERIES, 5)
    assert all([hit.record for hit in found] == sorted(hit.record for hit in found) for found in hits)
    assert {tuple(hit.path.stem for hit in found) for found in hits} == {("000", "001", "002", "003", "004")}


EXPRESSIONS = [
    *("note = 'O''Brien'", "note != '7'", "note < 'a'", "note >= 'abc' and note <= 'it'", "'abc' = note"),
    *("note = 7", "note = 7.0", "note in (7, 'abc')", "note not in ('abc', '')", "note between '0' and 'b'"),
    *("id = 7", "id > 10", "id in (1, 2, '3')", "id = camera", "id < camera", "not id = '3'", "not (note = 'abc')"),
    *("note like 'a%'", "note like '%\\_%' escape '\\'", "note like 'ä%'", "note like '_hre'", "note like '%''%'"),
    *("note like 'k'", "note like '%\n%'", "note like '\\d'", "note like ''", "note not like '%a%'"),
    *("note like 'a!%%' escape '!'", "note like 'A!B%' escape '!'", "note like 'x_y'", "id like '1_'"),
    *("note like '%' or note is null", "nullif(note, 'abc') is null"),
    *('"floor no." = 3', '"floor no." = 3.0', '"floor no." != 3', '"floor no." > -2.5', '"floor no." <= 1e15'),
    *('"floor no." in (3, 3.5, 0)', '"floor no." = \'3\'', '"floor no." < \'x\'', '"floor no." between -1 and 4'),
    *('"floor no." = 9007199254740992', '"floor no." = -2', '"floor no." is null', 'not "floor no." is null'),
    *('"floor no." + 1 > 4', '"floor no." / 2 = 1', '"floor no." % 2 = 1', "[floor no.] like '3%'", '"floor no."'),
    *("record = 3", "record in (3, 5)", "record > 4.5", "record between 2 and 6 and not record = 4", "record = '3'"),
    *("record % 2 = 0", "path like '%/000.jpg'", "path = 7", "path > '/pictures/003.jpg'", "path like '/P%'"),
    *("time > '2024-03-10'", "date(time) = '2024-03-12'", "time is null", "strftime('%d', time) < '05'"),
    *("lower(note) = 'abc'", "length(note) > 3", "coalesce(note, 'none') = 'none'", "typeof(note) = 'text'"),
    *("cast(id as integer) < 5", "upper(camera) = 'CAM_C'", "substr(note, 1, 1) = 'a'"),
    *("camera = 'cam_a' or camera = 'Cam_C' and note is not null", "(camera = 'a' or id = '1') and not note = ''"),
    *("CAMERA = 'cam_a'", "abs(\"floor no.\") = 2", "true", "false or note = 'abc'", "1 = 1", "note", "not note"),
]  # fmt: skip


def test_an_expression_lets_the_same_rows_pass(both: tuple[Path, Path]) -> None:
    with open_gallery(both[0]) as folder, open_gallery(both[1]) as dataset:
        paths = [{record.record: record.path for record in each.records()} for each in (folder, dataset)]
        for expression in EXPRESSIONS:
            one, other = (each.selected(Filter(where=expression)).records.tolist() for each in (folder, dataset))
            if "record" in expression:  # numbers are each gallery's own
                assert one == other, expression
            else:
                found = [{paths[kind][number] for number in some} for kind, some in enumerate((one, other))]
                assert found[0] == found[1], expression


def test_most_expressions_are_evaluated_by_lance() -> None:
    texts, numbers = ("id", "camera", "time", "note", "path"), ("floor no.", "record")
    columns = dict.fromkeys(texts, "text") | dict.fromkeys(numbers, "numbers")

    def compiles(expression: str) -> bool:
        try:
            return bool(to_lance(parse(expression), columns, str))  # type: ignore[arg-type]
        except OtherRulesError:
            return False

    left = [each for each in EXPRESSIONS if not compiles(each)]
    assert len(left) < len(EXPRESSIONS) / 2
    assert "note like 'a%'" not in left and "note = 7.0" in left and "length(note) > 3" in left


@pytest.mark.parametrize("expression", ["nothing = 1", "note = ", "note glob 'a*'", "length(nothing) = 2"])
def test_both_kinds_refuse_an_expression_in_the_same_words(both: tuple[Path, Path], expression: str) -> None:
    messages = []
    for each in both:
        with open_gallery(each) as gallery, pytest.raises(FilterError) as raised:
            gallery.passing(Filter(where=expression))
        messages.append((raised.value.message, sorted(raised.value.hint)))
    assert messages[0] == messages[1]


@pytest.mark.parametrize(
    "where", [Filter(camera=("x",)), Filter(id=("x",)), Filter(after="2030"), Filter(where="note = 'x'")]
)
def test_both_kinds_say_why_nothing_was_found(both: tuple[Path, Path], where: Filter) -> None:
    answers = []
    for each in both:
        with open_gallery(each) as gallery:
            answers.append(why_nothing(gallery, where))
            assert gallery.first_and_last_time() is not None
            assert gallery.counts_of("camera", ("cam_a", "x")) == {"cam_a": 20}
            assert np.isnan(gallery.times()).sum() == 24
    assert answers[0] == answers[1]


@pytest.mark.parametrize(("source", "target"), [("gallery", "pushed.lance"), ("gallery.lance", "pulled")])
def test_a_gallery_moves_between_the_kinds_whole(
    both: tuple[Path, Path], tmp_path: Path, source: str, target: str
) -> None:
    origin = next(each for each in both if each.name == source)
    assert merge_galleries([origin], tmp_path / target).added == 60
    again = merge_galleries([origin], tmp_path / target)
    assert (again.added, again.known) == (0, 60)
    with open_gallery(origin) as one, open_gallery(tmp_path / target) as other:
        records, moved = list(one.records()), list(other.records())
        assert [replace(each, record=0, row=0) for each in records] == [
            replace(each, record=0, row=0) for each in moved
        ]
        rows = [np.array([each.record for each in some]) for some in (records, moved)]
        np.testing.assert_array_equal(one.vectors_of(rows[0]), other.vectors_of(rows[1]))
        hits = [[[(hit.path, hit.score) for hit in found] for found in each.search(QUERIES)] for each in (one, other)]
        assert hits[0] == hits[1]
        assert other.verify() == 1
    remove_records(tmp_path / target, Filter(camera=("cam_a",)))
    assert merge_galleries([origin], tmp_path / target).removed_earlier == 20


def test_searches_of_what_a_kind_has_not_are_refused(both: tuple[Path, Path]) -> None:
    refusals: list[tuple[SearchOptions, Callable[[str], bool]]] = [
        (SearchOptions("index"), lambda text: "index" in text),
        (SearchOptions(probes=3), lambda text: "index" in text),
        (SearchOptions("graph"), lambda text: "graph" in text),
        (SearchOptions("sketch"), lambda text: "sketch" in text),
    ]
    for each in both:
        with open_gallery(each) as gallery:
            for options, fits in refusals:
                with pytest.raises(UsageError) as raised:
                    gallery.search(QUERIES, 3, options=options)
                assert fits(raised.value.message)
            with pytest.raises(UsageError, match="want float32"):
                gallery.search(QUERIES[:, :3])
            with pytest.raises(UsageError, match="at least 1"):
                gallery.search(QUERIES, 0)


def test_numbers_that_no_record_has_are_left_out(name: Path) -> None:
    fill(name, range(4))
    asked = np.array([0, 2, 4, 99, 2**62], dtype=np.int64)
    with open_gallery(name) as gallery:
        assert list(gallery.details(asked)) == [2, 4]
        selection = gallery.selection(asked)
        assert selection.records.tolist() == [2, 4]
        assert gallery.search_with_report(QUERIES[:1], 9, selection).report.searched == 2
        with pytest.raises(UsageError, match="no record 0"):
            gallery.vectors_of(asked[:1])

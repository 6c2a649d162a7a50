"""Datasets alone: their index, crops, shards, columns that several writers add, what is refused, full disks."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_vectors import embeddings
from gallery_contents import FACTS, VECTORS, entries, entry, fill
from recorded_disk import files_up_to

from tbps_infer.errors import BackendError, GalleryError, ModelMismatchError, UsageError
from tbps_infer.gallery import (
    Entry,
    FileStamp,
    Filter,
    GalleryWriter,
    Reject,
    SearchOptions,
    compact_gallery,
    index_with_report,
    merge_galleries,
    open_galleries,
    open_gallery,
    open_gallery_writer,
    remove_records,
)
from tbps_infer.gallery.lance.reader import LanceGallery
from tbps_infer.gallery.lance.storage import dataset_uri, lance_package
from tbps_infer.gallery.lance.table import field_name
from tbps_infer.layout import Segment, VectorLayout
from tbps_infer.runners.fake import fake_facts
from tbps_infer.sources import Shard, SourceItem

WIDE = fake_facts((8, 4), layout=VectorLayout((Segment("global", 64),)))
ROWS = 1500


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1500 rows in 30 clusters, an eighth of them of a camera, with an index."""
    name = tmp_path_factory.mktemp("indexed") / "wide.lance"
    rng = np.random.default_rng(0)
    vectors = np.repeat(rng.normal(size=(30, 64)), ROWS // 30, axis=0) + 0.4 * rng.normal(size=(ROWS, 64))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    with open_gallery_writer(name, WIDE) as writer:
        writer.commit(
            [
                Entry(Path(f"/p/{i}.jpg"), FileStamp(1, 1, f"{i:064x}"), {"camera": "rare" if i % 8 == 0 else "b"})
                for i in range(ROWS)
            ],
            vectors.astype(np.float32),
        )
    report = index_with_report(name)
    assert (report.kind, report.rows) == ("index", ROWS) and report.quality.startswith("recall@10 of 4 partitions")
    return name


def test_an_indexed_search_says_that_it_is_approximate_and_how_good(indexed: Path) -> None:
    with LanceGallery.open(indexed) as gallery:
        queries = gallery.vectors_of(np.arange(1, ROWS, ROWS // 20))
        assert gallery.index is not None and gallery.index.recall[4] >= gallery.index.recall[1]
        result = gallery.search_with_report(queries, 10, None, SearchOptions(probes=4))
        assert result.report.method == "index" and result.report.bytes_read is None
        assert result.report.approximate is not None
        assert result.report.approximate.startswith("Approximate: 4 of 4 partitions searched; when the index")
        exact = gallery.search_with_report(queries, 10, None, SearchOptions("exact"))
        assert exact.report.approximate is None and exact.report.method == "scan"
        scores = [{hit.record: hit.score for hit in hits} for hits in exact.hits]
        common = [hit for hits, known in zip(result.hits, scores, strict=True) for hit in hits if hit.record in known]
        assert len(common) >= 0.9 * 200
        assert all(any(known.get(hit.record) == hit.score for known in scores) for hit in common), "scored exactly"


def test_a_filter_has_the_index_propose_more_until_all_that_pass_are_read(indexed: Path) -> None:
    queries = embeddings(WIDE.layout, 5, 6)
    with LanceGallery.open(indexed) as gallery:
        few = gallery.search_with_report(queries, 5, Filter(camera=("rare",)))
        assert few.report.method == "scan", "200 of 188 would be proposed"
        forced = gallery.search_with_report(queries, 5, Filter(camera=("rare",)), SearchOptions("index", probes=2))
        assert "4 of 4 partitions" in str(forced.report.approximate) and "12.5%" in str(forced.report.approximate)
        assert forced.hits == few.hits
        exact = gallery.search_with_report(queries, 5, "length(camera) = 4")
        assert exact.hits == few.hits and exact.report.approximate is None


def test_rows_that_come_after_the_index_are_found(indexed: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy.lance"
    shutil.copytree(indexed, copy)
    vector = embeddings(WIDE.layout, 1, 9)
    with open_gallery_writer(copy) as writer:
        writer.commit([Entry(Path("/p/new.jpg"), FileStamp(1, 1, "f" * 64), {})], vector)
    with open_gallery(copy) as gallery:
        result = gallery.search_with_report(vector, 1)
        assert result.hits[0][0].path == Path("/p/new.jpg") and result.report.unindexed == 1
    assert compact_gallery(copy).kept == ROWS + 1
    with LanceGallery.open(copy) as gallery:
        assert gallery.index is not None and gallery.search(vector, 1)[0][0].path == Path("/p/new.jpg")
    assert remove_records(copy, Filter(camera=("rare",)), purge=True) == 188
    with LanceGallery.open(copy) as gallery:
        assert gallery.index is None, "it has codes of what was removed"


def test_indexes_that_are_worth_nothing_are_refused(tmp_path: Path) -> None:
    fill(tmp_path / "few.lance")
    with pytest.raises(GalleryError, match="60 records: an index is for 1000"):
        index_with_report(tmp_path / "few.lance")
    with pytest.raises(UsageError, match="no graph"):
        index_with_report(tmp_path / "few.lance", graph=True)


def test_crops_are_kept_and_come_with_the_hits_that_ask_for_them(tmp_path: Path) -> None:
    with open_gallery_writer(tmp_path / "c.lance", FACTS, crops=True) as writer:
        writer.commit([replace(entry(0), crop=b"jpeg"), entry(1)], VECTORS[:2])
        writer.commit(unchanged=[entry(0, {"camera": "x"})])
    with open_gallery(tmp_path / "c.lance") as gallery:
        assert gallery.keeps_crops
        hits = gallery.search(VECTORS[:1], 2, options=SearchOptions(crops=True))[0]
        assert [(hit.crop, hit.picture) for hit in hits] == [(b"jpeg", b"jpeg"), (None, entry(1).path)]
        assert gallery.search(VECTORS[:1], 1)[0][0].crop is None
    fill(tmp_path / "plain.lance", range(2))
    with pytest.raises(GalleryError, match="without crops"):
        open_gallery_writer(tmp_path / "plain.lance", FACTS, crops=True)
    with pytest.raises(UsageError, match="only datasets keep crops"):
        open_gallery_writer(tmp_path / "folder", FACTS, crops=True)


def test_writers_at_once_add_every_row_once_and_every_column(tmp_path: Path) -> None:
    """Each adds a quarter of its own, a quarter that all add, and a column of its own."""
    name, errors = tmp_path / "many.lance", list[BaseException]()

    def write(number: int) -> None:
        try:
            with open_gallery_writer(name, FACTS) as writer:
                for start in range(0, 20, 5):
                    numbers = [
                        *range(start, start + 5),
                        *range(20 + 10 * number + start // 2, 20 + 10 * number + start // 2 + 2),
                    ]
                    writer.commit([entry(n, {f"column {number}": n}) for n in numbers], VECTORS[numbers])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    with open_gallery(name) as gallery:
        paths = [record.path for record in gallery.records()]
        assert len(paths) == len(set(paths)) == 20 + 4 * 8
        assert set(gallery.columns) == {"id", "camera", "time", *(f"column {number}" for number in range(4))}
        for record in gallery.records():
            stored = gallery.vectors_of(np.array([record.record]))[0]
            np.testing.assert_array_equal(stored, VECTORS[int(record.path.stem)].astype(np.float16))
        assert gallery.verify() > 0


@pytest.mark.parametrize("name", ["a.b", "_rowid", "%", "x`y", "Ü", "vector", 'a "b"', "00"])
def test_any_column_that_a_folder_has_is_one_here(tmp_path: Path, name: str) -> None:
    with open_gallery_writer(tmp_path / "g.lance", FACTS) as writer:
        writer.commit([entry(0, {name: "v"}), entry(1, {})], VECTORS[:2])
    with open_gallery(tmp_path / "g.lance") as gallery:
        assert gallery.columns[-1] == name and "." not in field_name(name)
        quoted = name.replace('"', '""')
        assert gallery.passing(Filter(where=f"\"{quoted}\" = 'v'")) == 1
        assert next(gallery.records()).metadata == {name: "v"}


def test_numbers_that_would_be_rounded_are_refused(tmp_path: Path) -> None:
    with (
        open_gallery_writer(tmp_path / "g.lance", FACTS) as writer,
        pytest.raises(GalleryError, match="whole numbers up to 9007199254740992"),
    ):
        writer.commit([entry(0, {"n": 2**53 + 1})], VECTORS[:1])


def test_shards_are_searched_as_one_and_named(tmp_path: Path) -> None:
    fill(tmp_path / "whole")
    for shard in range(3):
        fill(tmp_path / (f"{shard}.lance" if shard else "folder"), range(shard, 60, 3))
    names = [tmp_path / "folder", tmp_path / "1.lance", tmp_path / "2.lance"]
    queries = embeddings(FACTS.layout, 6, 3)
    with open_gallery(tmp_path / "whole") as whole, open_galleries(names) as shards:
        for where, options in (
            (None, None), (Filter(camera=("cam_b",)), None), ("note like 'a%'", SearchOptions(per_id=True)),
        ):  # fmt: skip
            one, other = (each.search(queries, 7, where, options) for each in (whole, shards))
            assert [[(h.path, h.score) for h in hits] for hits in one] == [
                [(h.path, h.score) for h in hits] for hits in other
            ]
        assert {hit.gallery for hits in shards.search(queries, 9) for hit in hits} == set(map(str, names))
        assert (shards.count, shards.passing(Filter(camera=("cam_a",)))) == (60, 20)
        assert shards.values("camera", 9) == ["Cam_C", "cam_a", "cam_b"]
        assert shards.first_and_last_time() == whole.first_and_last_time()
    another = FACTS.identified("other weights", "")
    with open_gallery_writer(tmp_path / "other.lance", another) as writer:
        writer.commit(entries([0]), VECTORS[:1])
    with pytest.raises(ModelMismatchError):
        open_galleries([names[0], tmp_path / "other.lance"])
    with pytest.raises(UsageError, match="twice"):
        open_galleries([names[0], names[0]])


def test_a_shard_is_named_once_however_it_is_written(tmp_path: Path) -> None:
    fill(tmp_path / "g.lance", range(1))
    uri = str(tmp_path / "g.lance")
    for other in (f"{uri}/", f"{tmp_path}/../{tmp_path.name}/g.lance"):
        with pytest.raises(UsageError, match="there twice"):
            open_galleries([uri, other])


def test_a_lost_shard_is_an_error_or_named(tmp_path: Path) -> None:
    import shutil

    for number in range(2):
        fill(tmp_path / f"{number}.lance", range(number, 20, 2))
    names = [tmp_path / "0.lance", tmp_path / "1.lance"]
    with pytest.raises(GalleryError, match="There is no dataset at"):
        open_galleries([*names, tmp_path / "gone.lance"])
    with open_galleries([*names, tmp_path / "gone.lance"], allow_partial=True) as shards:
        report = shards.search_with_report(VECTORS[:1], 3).report
        assert report.searched == 20 and "gone.lance: There is no dataset" in report.left_out[0]
    with open_galleries(names, allow_partial=True) as shards, open_galleries(names) as strict:
        shutil.rmtree(names[1] / "data")  # while it is open
        found = shards.search_with_report(VECTORS[:1], 3)
        assert {hit.gallery for hit in found.hits[0]} == {str(names[0])}
        assert "1.lance: The dataset" in found.report.left_out[0]
        with pytest.raises(GalleryError, match="cannot be read"):
            strict.search(VECTORS[:1], 3)
        shutil.rmtree(names[0] / "data")
        with pytest.raises(GalleryError, match="cannot be read"):
            shards.search(VECTORS[:1], 3)


def test_a_path_belongs_to_one_shard() -> None:
    items = [SourceItem(Path(f"/p/{number}.jpg"), {}) for number in range(200)]
    parts = [[item for item in items if item in Shard(index, 4)] for index in range(4)]
    assert sorted(item.path for part in parts for item in part) == sorted(item.path for item in items)
    assert all(30 < len(part) < 70 for part in parts)
    for index, count in ((4, 4), (0, 0)):
        with pytest.raises(UsageError, match=r"want i/n"):
            Shard(index, count)


@contextmanager
def _limited() -> Iterator[None]:
    with files_up_to(64 << 10):
        yield


def test_a_full_disk_loses_nothing_and_says_so(tmp_path: Path) -> None:
    """The system's limit on file sizes stands for a full disk: the kernel refuses the write that goes over it."""
    name = tmp_path / "full.lance"
    big = fake_facts((8, 4), layout=VectorLayout((Segment("global", 512),)))
    vectors = embeddings(big.layout, 200)
    with open_gallery_writer(name, big) as writer:
        writer.commit(entries(range(10)), vectors[:10])
        with _limited(), pytest.raises(GalleryError, match="cannot be written"):
            writer.commit(entries(range(10, 200)), vectors[10:])
        with open_gallery(name) as gallery:
            assert gallery.count == 10
        writer.commit(entries(range(10, 200)), vectors[10:])
    with open_gallery(name) as gallery:
        assert (gallery.count, gallery.verify()) == (200, 2)


def test_what_is_no_gallery_is_refused(tmp_path: Path) -> None:
    import pyarrow as pa

    lance = lance_package()
    lance.write_dataset(pa.table({"a": [1]}), tmp_path / "other.lance")
    with pytest.raises(GalleryError, match="is a Lance dataset and not a gallery"):
        open_gallery(tmp_path / "other.lance")
    with pytest.raises(GalleryError, match="There is no dataset at"):
        open_gallery(tmp_path / "none.lance")
    with pytest.raises(UsageError, match="holds credentials"):
        dataset_uri("s3://key:secret@bucket/g.lance")
    (tmp_path / "file.lance").write_text("")
    with pytest.raises(GalleryError, match="is a file"):
        open_gallery_writer(tmp_path / "file.lance", FACTS)
    with pytest.raises(GalleryError, match="float16 or float32"):
        open_gallery_writer(tmp_path / "new.lance", FACTS, dtype="int8")
    fill(tmp_path / "g.lance", range(1))
    with pytest.raises(GalleryError, match="stores float16, and float32"):
        open_gallery_writer(tmp_path / "g.lance", FACTS, dtype="float32")
    with open_gallery(tmp_path / "g.lance") as gallery, pytest.raises(BackendError, match="on the CPU"):
        gallery.search(VECTORS[:1], options=SearchOptions(device="cuda"))


def test_facts_that_were_changed_are_refused(tmp_path: Path) -> None:
    with open_gallery_writer(tmp_path / "g.lance", FACTS.identified("weights", "")):
        pass
    dataset = lance_package().dataset(tmp_path / "g.lance")
    facts = json.loads(dataset.schema.metadata[b"tbps"])
    facts["model"]["max_length"] += 1
    dataset.update_schema_metadata({"tbps": json.dumps(facts)})
    with pytest.raises(GalleryError, match="not valid"):
        open_gallery(tmp_path / "g.lance")


def test_galleries_of_integers_stay_in_folders(tmp_path: Path) -> None:
    with GalleryWriter.open(tmp_path / "g", FACTS, dtype="int8") as writer:
        writer.commit(entries(range(2)), VECTORS[:2], rejects=[Reject(Path("/r"), "It is none.")])
    with pytest.raises(GalleryError, match="int8 was asked for"):
        merge_galleries([tmp_path / "g"], tmp_path / "g.lance")


def test_without_the_package_one_sentence_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['lance'] = None\n"
        "import tbps_infer.gallery as g\n"
        "try: g.open_gallery('x.lance')\n"
        "except Exception as error: print(type(error).__name__, error, error.hint)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == (
        'BackendError Lance datasets need pylance, which is not installed. Run pip install "tbps-infer[lance]".\n'
    )

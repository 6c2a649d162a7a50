"""Embedding a source into a gallery: what is new, changed, unchanged and rejected, and how it overlaps."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Generator, Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_vectors import embeddings
from numpy.typing import NDArray

from tbps_infer.decode_memory import DecodeMemory
from tbps_infer.embedding import EmbedOptions, EmbedReport, embed_gallery
from tbps_infer.errors import GalleryError, ModelMismatchError, UsageError
from tbps_infer.gallery import Gallery
from tbps_infer.images import load_crop
from tbps_infer.layout import Segment, VectorLayout
from tbps_infer.model_facts import ModelFacts
from tbps_infer.preprocessing import Preprocessing
from tbps_infer.runners.fake import fake_facts
from tbps_infer.sources import SourceItem, read_sources

LAYOUT = VectorLayout((Segment("global", 6), Segment("fine.0", 2, 0.5), Segment("fine.1", 3, 0.5)))
FACTS = fake_facts((8, 4), layout=LAYOUT)


def embedding(crop: NDArray[np.uint8], batch: NDArray[np.uint8]) -> NDArray[np.float32]:
    """A function of a crop's pixels and, a little, of the batch it is in, as on real hardware."""
    seed = hashlib.sha256(crop.tobytes()).digest()[:8]
    values: NDArray[np.float32] = embeddings(LAYOUT, 1, int.from_bytes(seed, "little"))[0]
    values *= 1 + 1e-3 * float(batch.mean()) / 255
    return values


class FakeEncoder:
    """A `CropEncoder` that remembers what it was given."""

    def __init__(self, facts: ModelFacts = FACTS) -> None:
        self.facts = facts
        self.batches: list[NDArray[np.uint8]] = []

    def encode_crops(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.batches.append(crops)
        return np.stack([embedding(crop, crops) for crop in crops])

    def encode_stream(
        self, crops: Iterable[NDArray[np.uint8]], batch_size: int
    ) -> Generator[NDArray[np.float32], None, None]:
        source = iter(crops)
        while batch := list(islice(source, batch_size)):
            yield self.encode_crops(np.stack(batch))


def picture(colour: int) -> bytes:
    """An 8 by 4 picture, already of the crop's size, in the one format that can be written by hand."""
    pixels = np.full((8, 4, 3), (colour % 256, colour // 256, 7), dtype=np.uint8)
    return b"P6 4 8 255\n" + pixels.tobytes()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(20):
        (folder / f"{number:02}.ppm").write_bytes(picture(number))
    return folder


def embed(pictures: Path, gallery: Path, options: EmbedOptions | None = None) -> tuple[EmbedReport, FakeEncoder]:
    encoder = FakeEncoder()
    return embed_gallery(encoder, read_sources([str(pictures)]), gallery, options), encoder


def counts(report: EmbedReport) -> tuple[int, int, int, int]:
    return report.total, report.embedded, report.unchanged, report.rejected


def names(gallery: Path) -> list[str]:
    with Gallery.open(gallery) as opened:
        opened.verify()
        return [record.path.name for record in opened.records()]


def test_a_folder_becomes_a_gallery(pictures: Path, tmp_path: Path) -> None:
    (pictures / "05.ppm").write_bytes(b"P6 4 8 255\n cut short")
    (pictures / "07.ppm").unlink()
    (pictures / "07.ppm").symlink_to("nowhere")
    (pictures / "08.ppm").unlink()
    (pictures / "08.ppm").mkdir()
    items = read_sources([str(pictures)])
    items.insert(9, SourceItem(pictures / "08.ppm", {}))
    report = embed_gallery(FakeEncoder(), items, tmp_path / "g", EmbedOptions(batch_size=4, bundle_path=tmp_path))
    assert counts(report) == (20, 17, 0, 3)
    with Gallery.open(tmp_path / "g") as gallery:
        assert gallery.bundle_path == tmp_path
        assert [record.record for record in gallery.records()] == list(range(1, 18))
        assert [record.path.name for record in gallery.records()] == [
            f"{number:02}.ppm" for number in range(20) if number not in (5, 7, 8)
        ]
        reasons = {reject.path.name: reject.reason for reject in gallery.rejects}
        assert gallery.rejects == sorted(report.rejects, key=lambda reject: reject.path)
        # Every vector is the one of its own picture, in its batch of four.
        good = [number for number in range(20) if number not in (5, 7, 8)]
        for record, number in zip(gallery.records(), good, strict=True):
            start = good.index(number) // 4 * 4
            batch = np.stack([crop_of(other) for other in good[start : start + 4]])
            want = embedding(crop_of(number), batch).astype(np.float16)
            np.testing.assert_array_equal(gallery.vectors[record.row], want)
    assert "decoded" in reasons["05.ppm"]
    assert reasons["07.ppm"] == "It cannot be read: No such file or directory."
    assert reasons["08.ppm"] == "It is not a file."


def crop_of(number: int) -> NDArray[np.uint8]:
    return np.frombuffer(picture(number)[11:], dtype=np.uint8).reshape(8, 4, 3)


def test_only_what_is_new_or_changed_is_embedded(pictures: Path, tmp_path: Path) -> None:
    gallery = tmp_path / "g"
    embed(pictures, gallery)
    report, encoder = embed(pictures, gallery)
    assert (counts(report), encoder.batches) == ((20, 0, 20, 0), [])

    (pictures / "03.ppm").write_bytes(picture(300))
    os.utime(pictures / "04.ppm", ns=(1, 1))  # touched only
    (pictures / "00b.ppm").write_bytes(picture(301))
    report, encoder = embed(pictures, gallery)
    assert counts(report) == (21, 2, 19, 0)
    assert [tuple(crop[0, 0]) for crop in encoder.batches[0]] == [(301 - 256, 1, 7), (300 - 256, 1, 7)]
    assert names(gallery) == [f"{number:02}.ppm" for number in range(20)] + ["00b.ppm"]

    report, encoder = embed(pictures, gallery)
    assert (counts(report), encoder.batches) == ((21, 0, 21, 0), [])


def test_a_change_that_keeps_size_and_mtime_is_found_by_hashing(pictures: Path, tmp_path: Path) -> None:
    embed(pictures, tmp_path / "g")
    status = (pictures / "03.ppm").stat()
    (pictures / "03.ppm").write_bytes(picture(44))
    os.utime(pictures / "03.ppm", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert counts(embed(pictures, tmp_path / "g")[0]) == (20, 0, 20, 0)
    assert counts(embed(pictures, tmp_path / "g", EmbedOptions(rehash=True))[0]) == (20, 1, 19, 0)


def test_an_unchanged_file_is_not_read(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embed(pictures, tmp_path / "g")

    really_open = Path.open

    def read(self: Path, *arguments: Any, **named: Any) -> Any:
        assert not self.is_relative_to(pictures), f"{self} was read"
        return really_open(self, *arguments, **named)

    monkeypatch.setattr(Path, "open", read)
    monkeypatch.setattr("tbps_infer.embedding._prepare", None)  # no decoding thread is woken for it
    assert counts(embed(pictures, tmp_path / "g")[0]) == (20, 0, 20, 0)


@pytest.mark.parametrize("seconds", [0.0, 0.02], ids=["quick", "slow"])
def test_files_are_looked_at_in_threads_where_that_takes_long(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    embed(pictures, tmp_path / "g")
    really_stat, threads = os.stat, []

    def stat(path: Any, **named: Any) -> os.stat_result:
        if Path(path).parent == pictures:
            threads.append(threading.current_thread())
            time.sleep(seconds)
        return really_stat(path, **named)

    monkeypatch.setattr("tbps_infer.embedding._LOOKED_AT_ONCE", 5)
    monkeypatch.setattr("tbps_infer.embedding._SLOW_LOOK_SECONDS", 0.01)
    with monkeypatch.context() as patched:
        patched.setattr("tbps_infer.embedding.os.stat", stat)
        assert counts(embed(pictures, tmp_path / "g")[0]) == (20, 0, 20, 0)
    assert len(threads) == 20 and threads[:5] == [threading.main_thread()] * 5
    assert (threading.main_thread() in threads[5:]) == (seconds == 0)


def test_a_changed_picture_that_is_too_large_to_read_keeps_its_record(pictures: Path, tmp_path: Path) -> None:
    embed(pictures, tmp_path / "g")
    changed = sorted(pictures.iterdir())[0]
    changed.write_bytes(changed.read_bytes() + bytes(1 << 20))
    report = embed(pictures, tmp_path / "g", EmbedOptions(decode_memory=1 << 20))[0]
    assert [problem.path for problem in report.unreachable] == [changed]
    assert report.rejects == ()


def test_a_picture_that_goes_bad_and_comes_back(pictures: Path, tmp_path: Path) -> None:
    gallery = tmp_path / "g"
    embed(pictures, gallery)
    (pictures / "03.ppm").write_bytes(b"no picture")
    assert counts(embed(pictures, gallery)[0]) == (20, 0, 19, 1)
    assert "03.ppm" not in names(gallery)
    (pictures / "03.ppm").write_bytes(picture(3))
    assert counts(embed(pictures, gallery)[0]) == (20, 1, 19, 0)
    with Gallery.open(gallery) as opened:
        assert opened.rejects == []
        assert [record.record for record in opened.records()][-1] == 21


def test_metadata_is_recorded_and_brought_up_to_date(pictures: Path, tmp_path: Path) -> None:
    def listed(shelf: int) -> list[SourceItem]:
        file = tmp_path / "list.csv"
        rows = "".join(f"{pictures.name}/{number:02}.ppm,cam_{number % 2},{shelf}\n" for number in range(20))
        file.write_text(f"path,camera,shelf\n{rows}")
        return read_sources([str(file)])

    embed_gallery(FakeEncoder(), listed(1), tmp_path / "g")
    encoder = FakeEncoder()
    report = embed_gallery(encoder, listed(2), tmp_path / "g")
    assert (counts(report), encoder.batches) == ((20, 0, 20, 0), [])
    with Gallery.open(tmp_path / "g") as gallery:
        assert [dict(record.metadata) for record in gallery.records()] == [
            {"camera": f"cam_{number % 2}", "shelf": 2} for number in range(20)
        ]


def test_a_path_given_twice_counts_once(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    items = [
        SourceItem(Path("pictures/01.ppm"), {"shelf": 1}),
        SourceItem(pictures / "00.ppm", {}),
        SourceItem(pictures / "x" / ".." / "01.ppm", {"shelf": 2}),
    ]
    assert counts(embed_gallery(FakeEncoder(), items, tmp_path / "g")) == (2, 2, 0, 0)
    with Gallery.open(tmp_path / "g") as gallery:
        assert [(r.path, dict(r.metadata)) for r in gallery.records()] == [
            (pictures / "01.ppm", {"shelf": 1}),
            (pictures / "00.ppm", {}),
        ]


def test_a_name_that_is_not_utf8_is_rejected_with_its_reason(pictures: Path, tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(pictures) + b"/caf\xe9.ppm")).write_bytes(picture(1))
    report, _ = embed(pictures, tmp_path / "g")
    assert counts(report) == (21, 20, 0, 1)
    with Gallery.open(tmp_path / "g") as gallery:
        (reject,) = gallery.rejects
    assert reject.path == pictures / "caf\\udce9.ppm"
    assert "rename" in reject.reason


@pytest.mark.parametrize(
    "options",
    [
        EmbedOptions(batch_size=1, workers=1, commit_rows=1),
        EmbedOptions(batch_size=7, workers=3, commit_rows=5),
        EmbedOptions(batch_size=7, workers=2, commit_seconds=0),
        EmbedOptions(batch_size=64, workers=2),
    ],
)
def test_commits_come_at_whole_batches_and_progress_counts_up(
    pictures: Path, tmp_path: Path, options: EmbedOptions
) -> None:
    (pictures / "02.ppm").write_bytes(b"")
    encoder = FakeEncoder()
    seen: list[tuple[int, int]] = []
    embed_gallery(
        encoder,
        read_sources([str(pictures)]),
        tmp_path / "g",
        options,
        lambda done, total: seen.append((done, total)),
    )
    assert seen == [(done, 20) for done in range(1, 21)]
    sizes = [len(batch) for batch in encoder.batches]
    assert sizes[:-1] == [options.batch_size] * (len(sizes) - 1)
    assert sum(sizes) == 19
    assert names(tmp_path / "g") == [f"{number:02}.ppm" for number in range(20) if number != 2]


class StopError(Exception):
    """Stands for anything that ends a run in the middle."""


class StoppingEncoder(FakeEncoder):
    def __init__(self, batches: int) -> None:
        super().__init__()
        self.left = batches

    def encode_crops(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        if self.left == 0:
            raise StopError
        self.left -= 1
        return super().encode_crops(crops)


@pytest.mark.parametrize("batches", [0, 1, 2, 3])
def test_a_stopped_run_is_continued_to_the_same_gallery(pictures: Path, tmp_path: Path, batches: int) -> None:
    (pictures / "06.ppm").write_bytes(b"bad")
    options = EmbedOptions(batch_size=4, commit_rows=4)
    embed(pictures, tmp_path / "whole", options)
    with pytest.raises(StopError):
        embed_gallery(StoppingEncoder(batches), read_sources([str(pictures)]), tmp_path / "parts", options)
    assert len(names(tmp_path / "parts")) == 4 * batches
    report, encoder = embed(pictures, tmp_path / "parts", options)
    assert counts(report) == (20, 19 - 4 * batches, 4 * batches, 1)
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    assert encoder.batches


def contents(path: Path) -> tuple[list[tuple[int, str, bytes]], object]:
    with Gallery.open(path) as gallery:
        gallery.verify()
        rows = [(r.record, str(r.path), gallery.vectors[r.row].tobytes()) for r in gallery.records()]
        return rows, gallery.rejects


def test_an_encoder_that_gives_no_embeddings_is_refused(pictures: Path, tmp_path: Path) -> None:
    class Broken(FakeEncoder):
        def encode_crops(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
            return 2 * super().encode_crops(crops)

    with pytest.raises(GalleryError, match="squared norm"):
        embed_gallery(Broken(), read_sources([str(pictures)]), tmp_path / "g")
    assert names(tmp_path / "g") == []


def test_another_model_is_refused_before_anything_is_read(pictures: Path, tmp_path: Path) -> None:
    embed(pictures, tmp_path / "g")
    other = FakeEncoder(fake_facts((8, 4), layout=LAYOUT, fingerprint="another"))
    with pytest.raises(ModelMismatchError):
        embed_gallery(other, read_sources([str(pictures)]), tmp_path / "g")
    assert other.batches == []


def test_options_that_make_no_sense_are_refused() -> None:
    with pytest.raises(UsageError, match="want at least 1"):
        EmbedOptions(batch_size=0)
    with pytest.raises(UsageError, match="want at least 1"):
        EmbedOptions(workers=0)
    with pytest.raises(UsageError, match="want at least 1"):
        EmbedOptions(commit_rows=0)


def test_decoding_overlaps_with_encoding_and_the_queue_is_bounded(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the encoder has the first batch, the pictures after it are decoded, and no more than two batches."""
    decoded: list[int] = []
    waited = threading.Event()

    def counting(source: Path | bytes, facts: Preprocessing, memory: DecodeMemory) -> NDArray[np.uint8]:
        crop = load_crop(source, facts, memory)
        decoded.append(int(crop[0, 0, 0]))
        if len(decoded) > 2 + 2:  # more than the first batch and what was in the making
            waited.set()
        return crop

    class Waiting(FakeEncoder):
        def encode_crops(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
            if not self.batches:
                assert waited.wait(timeout=30), "nothing was decoded while the encoder worked"
                time.sleep(0.05)
                ahead.append(len(decoded) - len(crops))
            return super().encode_crops(crops)

    ahead: list[int] = []
    monkeypatch.setattr("tbps_infer.embedding.load_crop", counting)
    options = EmbedOptions(batch_size=2, workers=2)
    report = embed_gallery(Waiting(), read_sources([str(pictures)]), tmp_path / "g", options)
    assert counts(report) == (20, 20, 0, 0)
    assert ahead[0] <= 2 * 2 + 2


def test_a_huge_file_is_one_reject(pictures: Path, tmp_path: Path) -> None:
    with (pictures / "huge.jpg").open("wb") as file:
        file.truncate(8 << 30)  # sparse: it takes no space on the disk
    report, _ = embed(pictures, tmp_path / "gallery")
    assert counts(report) == (21, 20, 0, 1)
    assert report.rejects[0].reason.startswith("Reading it takes 8,192 MiB, and 256 MiB of the 1,024 MiB")

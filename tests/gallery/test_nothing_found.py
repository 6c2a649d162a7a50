"""A search that finds nothing says which condition no record satisfies, and what there is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tbps_infer.gallery import Entry, FileStamp, Filter, Gallery, GalleryWriter, why_nothing
from tbps_infer.gallery.columns import Value
from tbps_infer.layout import Segment, VectorLayout
from tbps_infer.runners.fake import fake_facts

MODEL = fake_facts(layout=VectorLayout((Segment("global", 4),)))


def _made(path: Path, rows: list[dict[str, Value]]) -> Gallery:
    entries = [Entry(Path(f"/p/{number}.jpg"), FileStamp(1, 2, "x"), row) for number, row in enumerate(rows)]
    with GalleryWriter.open(path, MODEL) as writer:
        if entries:
            writer.commit(entries, np.eye(4, dtype=np.float32)[np.arange(len(entries)) % 4])
    return Gallery.open(path)


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gallery]:
    rows: list[dict[str, Value]] = [
        {"id": str(number % 20), "camera": f"cam_{'abcdef'[number % 6]}", "time": f"2024-05-{number + 1:02d}"}
        for number in range(24)
    ]
    with _made(tmp_path_factory.mktemp("nothing") / "gallery", rows) as made:
        yield made


@pytest.mark.parametrize(
    ("where", "min_score", "sentence"),
    [
        (
            Filter(camera=("cam9",)),
            None,
            "No picture has camera cam9; there are cam_a, cam_b, cam_c, cam_d, cam_e, cam_f.",
        ),
        (
            Filter(camera=("cam_a",), id=("77", "78")),
            None,
            "No picture has id 77 or 78; there are 0, 1, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19 and more.",
        ),
        (
            Filter(after="2025"),
            None,
            "No picture is from 2025 or later; the first is from 2024-05-01, the last from 2024-05-24.",
        ),
        (
            Filter(camera=("cam_a",), before="2024-05"),
            None,
            "No picture is from before 2024-05; the first is from 2024-05-01, the last from 2024-05-24.",
        ),
        (Filter(camera=("cam_b",), id=("0",)), None, "No picture satisfies camera, id together."),
        (Filter(where="id = 'x'"), None, "No picture satisfies id = 'x'."),
        (Filter(not_id=tuple(map(str, range(20)))), None, "Every picture is of an identity that is excluded."),
        (Filter(), 1.5, "No picture reaches a score of 1.5."),
    ],
)
def test_an_empty_result_names_what_there_is(
    gallery: Gallery, where: Filter, min_score: float | None, sentence: str
) -> None:
    assert why_nothing(gallery, where, min_score) == sentence


def test_an_empty_gallery_is_called_empty(tmp_path: Path) -> None:
    with _made(tmp_path / "empty", []) as empty:
        assert why_nothing(empty, Filter(camera=("cam9",))) == "The gallery is empty."


def test_a_gallery_without_a_column_says_so(tmp_path: Path) -> None:
    with _made(tmp_path / "bare", [{}, {"camera": "one"}]) as bare:
        assert why_nothing(bare, Filter(id=("1",))) == "No picture has a value in the column id."
        assert why_nothing(bare, Filter(after="2024")) == "No picture has a time."
        assert why_nothing(bare, Filter(camera=("two",))) == "No picture has camera two; there is one."

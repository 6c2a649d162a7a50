"""Strips of hits: frames, marks, order, bars over their stripes, the failure layout, pages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tbps_infer.errors import UsageError
from tbps_infer.layout import Segment, VectorLayout
from tbps_infer.render import canvas
from tbps_infer.render.marks import Verdict
from tbps_infer.render.sheet import page_path, write_sheet
from tbps_infer.render.strip import MARGIN, THUMB, Shown, Strip, draw_strip, tile_left

LAYOUT = VectorLayout((Segment("global", 4), Segment("fine.0", 2, 0.5), Segment("fine.1", 2, 0.5)))
COLOURS = [(200, 30, 40), (30, 200, 40), (30, 40, 200)]
TOP = MARGIN + canvas.FRAME


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    files = [tmp_path / f"{number}.png" for number in range(3)]
    for file, colour in zip(files, COLOURS, strict=True):
        Image.new("RGB", (50, 150), colour).save(file)
    return files


def _shown(path: Path, rank: int, verdict: Verdict) -> Shown:
    return Shown(path, rank, 1.25, verdict, {"global": 0.75, "fine.0": 0.5, "fine.1": 0.0})


def test_hits_lie_in_order_inside_frames_of_their_verdict(pictures: list[Path]) -> None:
    verdicts: list[Verdict] = ["right", "wrong", "unknown"]
    hits = tuple(_shown(p, r, v) for r, (p, v) in enumerate(zip(pictures, verdicts, strict=True), start=1))
    image = draw_strip(Strip("a man", hits), LAYOUT, 3)
    for index, verdict in enumerate(verdicts):
        left = tile_left(index, LAYOUT)
        for inside in ((left, TOP + 60), (left + THUMB[0] - 1, TOP + THUMB[1] - 1)):
            assert image.getpixel(inside) == COLOURS[index]
        frame = canvas.FRAME_COLOURS[verdict]
        assert image.getpixel((left + 50, TOP - 1)) == frame
        assert image.getpixel((left + 50, TOP + THUMB[1])) == frame
        assert image.getpixel((left + 50, TOP - canvas.FRAME - 1)) == canvas.PAPER


def test_verdicts_differ_without_colour(pictures: list[Path]) -> None:
    left = tile_left(0, LAYOUT)
    edges, corners = {}, {}
    for verdict in ("right", "wrong", "unknown"):
        image = draw_strip(Strip("a man", (_shown(pictures[0], 1, verdict),)), LAYOUT, 1).convert("L")
        pixels = np.asarray(image)
        edge = pixels[TOP : TOP + THUMB[1], left - 2]
        edges[verdict] = int((np.abs(np.diff(edge.astype(int))) > 20).sum())
        corner = pixels[TOP + 2 : TOP + 28, left + THUMB[0] - 28 : left + THUMB[0] - 2]
        corners[verdict] = (corner > 250).tobytes()
    assert edges["right"] == edges["unknown"] == 0
    assert edges["wrong"] > 10
    assert len(set(corners.values())) == 3


def test_a_part_has_its_bar_beside_its_stripe(pictures: list[Path]) -> None:
    image = draw_strip(Strip("a man", (_shown(pictures[0], 1, "right"),)), LAYOUT, 1)
    x = tile_left(0, LAYOUT) + THUMB[0] + canvas.FRAME + 10
    assert image.getpixel((x, TOP + THUMB[1] // 4)) == canvas.BAR
    assert image.getpixel((x, TOP + 3 * THUMB[1] // 4)) == canvas.REST


def test_a_failure_shows_the_right_picture_after_the_hits(pictures: list[Path]) -> None:
    hits = (_shown(pictures[0], 1, "wrong"),)
    failed = draw_strip(Strip("a man", hits, truth=_shown(pictures[1], 47, "right")), LAYOUT, 1)
    other = draw_strip(Strip("a man", hits, truth=_shown(pictures[1], 48, "right")), LAYOUT, 1)
    plain = draw_strip(Strip("a man", hits), LAYOUT, 1)
    columns = np.flatnonzero((np.asarray(failed) == COLOURS[1]).all(axis=2).any(axis=0))
    assert columns[0] >= tile_left(1, LAYOUT)
    assert len(columns) == THUMB[0]
    assert not (np.asarray(plain) == COLOURS[1]).all(axis=2).any()
    rank = np.flatnonzero((np.asarray(failed) != np.asarray(other)).any(axis=(0, 2)))
    assert columns[0] <= rank[0] <= rank[-1] < columns[0] + 40, "only the rank differs, under the picture"


@pytest.mark.parametrize(
    "text", ["a " * 400, "x" * 500, "مرحبا بالعالم", "红色外套的女人", "caf\udce9\0\n\t", "", "👩‍🦰"]
)
def test_any_sentence_stays_inside_its_column(pictures: list[Path], text: str) -> None:
    hits = (_shown(pictures[0], 1, "right"),)
    drawn = np.asarray(draw_strip(Strip(text, hits), LAYOUT, 1))
    empty = np.asarray(draw_strip(Strip("", hits), LAYOUT, 1))
    assert drawn.shape == empty.shape
    beside = tile_left(0, LAYOUT) - canvas.FRAME
    assert np.array_equal(drawn[:, beside:], empty[:, beside:])


def test_wrapping_keeps_every_letter_and_the_width() -> None:
    text = "a woman in a red coat " + "w" * 80
    lines = canvas.wrap(text, 120, 16)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(canvas.font(16).getlength(line) <= 120 for line in lines)
    assert canvas.wrap(text, 120, 16, most=2)[-1].endswith("...")


def test_a_sheet_goes_on_over_numbered_pages(tmp_path: Path, pictures: list[Path]) -> None:
    strips = [Strip(str(number), (_shown(pictures[number % 3], 1, "unknown"),)) for number in range(5)]
    file = tmp_path / "out.png"
    write_sheet(file, strips, LAYOUT, 1, per_page=2)
    heights = []
    for page in (1, 2, 3):
        with Image.open(page_path(file, page)) as image:
            heights.append(image.height)
    one = draw_strip(strips[0], LAYOUT, 1).height
    assert heights == [2 * one, 2 * one, one]
    assert sorted(p.name for p in tmp_path.glob("out*")) == ["out-2.png", "out-3.png", "out.png"]


def test_a_place_that_cannot_be_written_is_a_sentence(tmp_path: Path, pictures: list[Path]) -> None:
    strip = Strip("a man", (_shown(pictures[0], 1, "right"),))
    with pytest.raises(UsageError, match="cannot be written"):
        write_sheet(tmp_path / "missing" / "out.png", [strip], LAYOUT, 1)


@pytest.mark.parametrize(("name", "kind"), [("out.png", "PNG"), ("out.jpg", "JPEG"), ("out.JPEG", "JPEG")])
def test_the_suffix_is_the_format(tmp_path: Path, pictures: list[Path], name: str, kind: str) -> None:
    write_sheet(tmp_path / name, [Strip("a man", (_shown(pictures[0], 1, "right"),))], LAYOUT, 1)
    with Image.open(tmp_path / name) as image:
        assert image.format == kind


def test_another_suffix_is_refused_before_anything_is_drawn(tmp_path: Path) -> None:
    strips = iter([Strip("a man", ())])
    with pytest.raises(UsageError, match=r"want \.png, \.jpg, \.jpeg"):
        write_sheet(tmp_path / "out.gif", strips, LAYOUT, 1)
    assert next(strips).label == "a man"

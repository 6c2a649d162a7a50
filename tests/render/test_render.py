"""The page of hits: complete, escaped, self-contained, and never left half-written."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from tbps_infer.errors import UsageError
from tbps_infer.gallery import Hit
from tbps_infer.layout import Segment, VectorLayout
from tbps_infer.render.html import THUMBNAIL, new_page, write_page

LAYOUT = VectorLayout((Segment("global", 4), Segment("fine.0", 2, 0.5), Segment("fine.1", 2, 0.5)))


@dataclass(frozen=True)
class _Query:
    label: str
    person: str | None = None
    image: Path | None = None
    warnings: tuple[str, ...] = ()


def _hit(path: Path, record: int = 1, **metadata: str | float) -> Hit:
    return Hit(record, path, 1.25, {"global": 0.75, "fine.0": 0.5, "fine.1": 0.0}, metadata)


def _write(file: Path, results: Sequence[tuple[_Query, Sequence[Hit]]]) -> str:
    write_page(file, iter(results), LAYOUT)
    return file.read_text(encoding="utf-8")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    file = tmp_path / "a.png"
    Image.new("RGB", (200, 600), (200, 30, 40)).save(file)
    return file


class _Tags(HTMLParser):
    """Fails on a tag that is closed out of order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_page_is_well_formed_and_needs_nothing_else(tmp_path: Path, picture: Path) -> None:
    page = _write(tmp_path / "page.html", [(_Query("a man"), [_hit(picture), _hit(picture, 2)]), (_Query("x"), [])])
    tags = _Tags()
    tags.feed(page)
    assert not tags.open
    assert not re.search(r"(src|href)=.(?!data:)|url\(|@import|<script", page)
    assert "No picture passes the filter." in page
    assert [tag for tag, _ in tags.seen].count("img") == 2


def test_thumbnails_are_the_pictures(tmp_path: Path, picture: Path) -> None:
    page = _write(tmp_path / "page.html", [(_Query("a man"), [_hit(picture)])])
    (data,) = re.findall(r"data:image/jpeg;base64,([^\"]+)", page)
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert image.size[1] <= 2 * THUMBNAIL[0]
    assert image.size[0] * 3 == image.size[1]
    pixel = image.convert("RGB").getpixel((10, 10))
    assert isinstance(pixel, tuple)
    assert all(abs(have - want) < 8 for have, want in zip(pixel, (200, 30, 40), strict=True))


def test_bars_are_shares_of_what_a_segment_can_give(tmp_path: Path, picture: Path) -> None:
    page = _write(tmp_path / "page.html", [(_Query("a man"), [_hit(picture)])])
    bars = re.findall(r"<dt>([^<]+)</dt><dd title=\"[^\"]+\"><i style=\"width:(\d+)%\">", page)
    assert bars == [("global", "75"), ("fine.0", "100"), ("fine.1", "0")]


@pytest.mark.parametrize("evil", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "a & b"])
def test_whatever_comes_from_outside_is_text(tmp_path: Path, picture: Path, evil: str) -> None:
    page = _write(tmp_path / "page.html", [(_Query(evil), [_hit(picture, note=evil)])])
    tags = _Tags()
    tags.feed(page)
    assert "<script>" not in page
    assert not any("onerror" in attrs for _, attrs in tags.seen)
    (card,) = [attrs for tag, attrs in tags.seen if tag == "li"]
    assert card["title"] is not None
    assert card["title"].endswith(f"note: {evil}")


def test_right_and_wrong_differ_by_mark_and_not_only_by_colour(tmp_path: Path, picture: Path) -> None:
    hits = [_hit(picture, 1, id=7), _hit(picture, 2, id=8)]
    page = _write(tmp_path / "page.html", [(_Query("a man", person="7"), hits)])
    assert re.findall(r'<li class="(\w+)"', page) == ["right", "wrong"]
    assert re.findall(r'class="mark" aria-label="(\w+)">(.)<', page) == [("right", "✓"), ("wrong", "✕")]
    assert 'class="mark"' not in _write(tmp_path / "other.html", [(_Query("a man"), hits)])


def test_a_picture_of_nobody_known_is_neither_right_nor_wrong(tmp_path: Path, picture: Path) -> None:
    page = _write(tmp_path / "page.html", [(_Query("a man", person="7"), [_hit(picture), _hit(picture, 2, id=0)])])
    assert re.findall(r'<li class="(\w+)"', page) == ["unknown", "wrong"]
    assert re.findall(r'class="mark" aria-label="(\w+)">(.)<', page) == [("unknown", "?"), ("wrong", "✕")]


def test_a_hit_from_a_video_links_to_its_moment(tmp_path: Path, picture: Path) -> None:
    hits = [
        _hit(picture, video="/videos/gate #1.mp4", offset=12.5),
        _hit(picture, 2, video="/frames/1.png", offset=3),
        _hit(picture, 3, video="javascript:alert(1)", offset=3),
        _hit(picture, 4),
    ]
    page = _write(tmp_path / "page.html", [(_Query("a man"), hits)])
    assert page.count("show the frame") == 2 and 'href="javascript' not in page
    assert '<a class="frame" href="file:///videos/gate%20%231.mp4#t=12.500">' in page
    assert '<a class="frame" href="file:///frames/1.png">' in page


def test_a_picture_that_cannot_be_shown_leaves_a_frame_that_says_why(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.jpg"
    damaged.write_bytes(b"\xff\xd8\xff\xe0junk")
    page = _write(tmp_path / "page.html", [(_Query("a man"), [_hit(tmp_path / "gone.jpg"), _hit(damaged, 2)])])
    assert re.findall(r'class="gone">([^<]+)<', page) == ["picture not there any more", "picture cannot be read"]


def test_a_query_named_by_bytes_that_are_no_text_is_shown_escaped(tmp_path: Path, picture: Path) -> None:
    page = _write(tmp_path / "page.html", [(_Query("caf\udce9.jpg"), [_hit(picture)])])
    assert r"<h2>caf\udce9.jpg</h2>" in page


def test_a_failure_leaves_nothing(tmp_path: Path, picture: Path) -> None:
    with pytest.raises(RuntimeError, match="the search failed"), new_page(tmp_path / "page.html", LAYOUT) as add:
        add(_Query("a man"), [_hit(picture)])
        raise RuntimeError("the search failed")
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


def test_a_place_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written"):
        _write(tmp_path / "missing" / "page.html", [])


def test_a_query_by_picture_shows_it(tmp_path: Path, picture: Path) -> None:
    page = _write(tmp_path / "page.html", [(_Query("a.png", image=picture), [])])
    assert page.count("data:image/jpeg;base64,") == 1


def test_an_error_of_the_search_is_not_one_of_the_page(tmp_path: Path) -> None:
    def failing() -> Iterator[tuple[_Query, Sequence[Hit]]]:
        yield _Query("a man"), []
        raise PermissionError("the gallery's, not the page's")

    with pytest.raises(PermissionError, match="the gallery's"):
        write_page(tmp_path / "page.html", failing(), LAYOUT)
    assert list(tmp_path.iterdir()) == []


def test_metadata_is_shown_as_text_and_warnings_above_the_hits(tmp_path: Path, picture: Path) -> None:
    query = _Query("a man", warnings=("The model does not know <b>.",))
    page = _write(tmp_path / "page.html", [(query, [_hit(picture, camera="cam_a", note="\u202e<i>")])])
    assert '<dl class="facts"><dt>camera</dt><dd>cam_a</dd><dt>note</dt><dd>\\u202e&lt;i&gt;</dd></dl>' in page
    assert '<p class="empty">The model does not know &lt;b&gt;.</p>' in page
    assert "No picture passes" not in page

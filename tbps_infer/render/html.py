"""Hits as one self-contained HTML page: the sentence, and thumbnails with rank, score and what it is made of."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TextIO

from tbps_infer.atomic import new_file
from tbps_infer.errors import UsageError
from tbps_infer.folders import is_picture
from tbps_infer.gallery.columns import Value
from tbps_infer.inline_picture import image_html
from tbps_infer.layout import VectorLayout
from tbps_infer.render.marks import NOTHING_FOUND, Verdict, verdict
from tbps_infer.render.printable import printable

if TYPE_CHECKING:
    from tbps_infer.gallery import Hit

__all__ = ["THUMBNAIL", "Labelled", "new_page", "write_page"]

THUMBNAIL = (288, 96)
"""Height and width of a thumbnail in pixels, 1:3 as person crops are."""


class Labelled(Protocol):
    """A query, as people see it."""

    @property
    def label(self) -> str:
        """The sentence, or the picture's name."""

    @property
    def image(self) -> Path | None:
        """The picture, where the query is one."""

    @property
    def person(self) -> str | None:
        """The ``id`` in the metadata of the right hits, to mark hits right or wrong; None where it is not known."""

    @property
    def warnings(self) -> Sequence[str]:
        """What the model cannot read of the query, and why there are no hits."""


Result = tuple[Labelled, Sequence["Hit"]]
"""A query with its hits, best first."""


def write_page(file: Path, results: Iterable[Result], layout: VectorLayout) -> None:
    """Write results into a page, one query in memory at a time; parameters and errors are those of `new_page`."""
    with new_page(file, layout) as add:
        for query, hits in results:
            add(query, hits)


@contextlib.contextmanager
def new_page(file: Path, layout: VectorLayout) -> Iterator[Callable[[Labelled, Sequence[Hit]], None]]:
    """Yield a function that adds a query and its hits to a page, which is in its place when the block ends.

    An error in the block leaves nothing behind.

    Args:
        file: The page.
        layout: The model's; every segment gets a bar, its length the share of what the segment can give.

    Raises:
        UsageError: The page cannot be written.
    """
    with (
        new_file(file, UsageError) as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace") as page,
    ):
        page.write(_HEAD)
        yield lambda query, hits: _add(page, query, hits, layout)
        page.write("</main></body></html>\n")


def _add(page: TextIO, query: Labelled, hits: Sequence[Hit], layout: VectorLayout) -> None:
    page.write(_section(query, hits, layout))


def _section(query: Labelled, hits: Sequence[Hit], layout: VectorLayout) -> str:
    cards = "".join(_card(rank, hit, layout, query.person) for rank, hit in enumerate(hits, start=1))
    told = query.warnings or (() if hits else (NOTHING_FOUND,))
    warnings = "".join(f'<p class="empty">{_text(warning)}</p>' for warning in told)
    example = (
        ""
        if query.image is None
        else f'<figure class="query">{image_html(query.image, THUMBNAIL, _gone(query.image))}</figure>'
    )
    return f"<section><h2>{_text(query.label)}</h2>{example}{warnings}<ol>{cards}</ol></section>\n"


_SIGNS: Mapping[Verdict, str] = {"right": "✓", "wrong": "✕", "unknown": "?"}


def _card(rank: int, hit: Hit, layout: VectorLayout, wanted: str | None) -> str:
    mark = verdict(hit.metadata, wanted)
    facts = "".join(f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in hit.metadata.items())
    title = escape("\n".join([str(hit.path), *(f"{name}: {value}" for name, value in hit.metadata.items())]))
    bars = "".join(_bar(s.name, hit.split[s.name], s.weight) for s in layout.segments)
    sign = "" if wanted is None else f'<span class="mark" aria-label="{mark}">{_SIGNS[mark]}</span>'
    return (
        f'<li class="{mark}" title="{title}"><figure>{image_html(hit.picture, THUMBNAIL, _gone(hit.path))}{sign}'
        f"<figcaption><b>{rank}</b><span>{hit.score:.3f}</span></figcaption></figure>"
        f'<dl class="bars">{bars}</dl><p class="name">{_text(hit.path.name)}</p><dl class="facts">{facts}</dl>'
        f"{_frame_link(hit.metadata)}</li>"
    )


def _frame_link(metadata: Mapping[str, Value]) -> str:
    """A link to the moment in the video that a hit was cropped from; empty where it is from none."""
    video, offset = metadata.get("video"), metadata.get("offset")
    if not isinstance(video, str) or not Path(video).is_absolute() or not isinstance(offset, int | float):
        return ""
    moment = "" if is_picture(video) else f"#t={max(offset, 0):.3f}"
    return f'<a class="frame" href="{escape(Path(video).as_uri() + moment)}">show the frame</a>'


def _bar(name: str, share: float, weight: float) -> str:
    percent = 100 * min(max(share / weight, 0.0), 1.0)
    return f'<dt>{_text(name)}</dt><dd title="{share:.4f} of {weight:.4f}"><i style="width:{percent:.0f}%"></i></dd>'


def _text(value: object) -> str:
    """Text as HTML; what would turn the direction of reading, or does not show, is spelled out."""
    return escape(printable(str(value)))


def _gone(path: Path) -> str:
    reason = "picture cannot be read" if path.exists() else "picture not there any more"
    return f'<div class="gone">{reason}</div>'


_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1">
<title>Search results</title>
<style>
:root{--ground:#f6f7f9;--card:#fff;--ink:#16191d;--soft:#5d6570;--line:#d9dde3;--bar:#3b6ea8;--rest:#e4e8ee;
--right:#0a7d4b;--wrong:#c23b22;--mark:#fff}
@media(prefers-color-scheme:dark){:root{--ground:#14171b;--card:#1d2127;--ink:#e8ebef;--soft:#9aa3ae;--line:#323943;
--bar:#7fb0e8;--rest:#2b323b;--right:#4cc38a;--wrong:#ff8a70;--mark:#14171b}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);font:15px/1.45 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:1280px;margin:0 auto;padding:24px 16px 48px}
section{margin:0 0 36px;break-inside:avoid}
h2{font-size:1.15rem;font-weight:600;line-height:1.35;margin:0 0 12px;max-width:70ch;overflow-wrap:anywhere}
h2::before{content:"“"}h2::after{content:"”"}
ol{list-style:none;margin:0;padding:0;display:grid;gap:12px;grid-template-columns:repeat(auto-fill,minmax(124px,1fr))}
li{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:10px;min-width:0}
li.right{border:3px solid var(--right);padding:8px}
li.wrong{border:3px dashed var(--wrong);padding:8px}
figure{margin:0;position:relative;text-align:center}
img,.gone{display:block;margin:0 auto;width:96px;height:288px;border-radius:6px;
background:var(--rest);object-fit:contain}
.gone{display:flex;align-items:center;padding:8px;color:var(--soft);font-size:12px}
.mark{position:absolute;top:6px;right:calc(50% - 44px);width:24px;height:24px;border-radius:50%;color:var(--mark);
font-weight:700;line-height:24px;background:var(--right)}
.unknown .mark{background:var(--soft)}.wrong .mark{background:var(--wrong);border-radius:4px}
figure.query{margin:0 0 12px;text-align:left}figure.query img{margin:0}
figcaption{display:flex;justify-content:space-between;margin:8px 2px 4px;font-variant-numeric:tabular-nums}
figcaption span{color:var(--soft)}
dl{display:grid;grid-template-columns:auto 1fr;gap:3px 6px;margin:0;font-size:11px;align-items:center;
color:var(--soft)}
dd{margin:0}.bars dd{height:6px;border-radius:3px;background:var(--rest);overflow:hidden}
.bars i{display:block;height:100%;background:var(--bar)}
.facts{display:block;margin-top:4px}.facts dt{float:left;clear:left;margin-right:6px}
.facts dd{color:var(--ink);margin-bottom:3px;overflow-wrap:anywhere}
.frame{font-size:11px;color:var(--bar)}
.name{margin:6px 0 0;font-size:11px;color:var(--soft);overflow-wrap:anywhere}
.empty{color:var(--soft)}
@media(max-width:400px){ol{grid-template-columns:repeat(2,minmax(0,1fr))}}
@media print{body{background:#fff}li{break-inside:avoid}*{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
</style></head><body><main>
"""

"""`tbps search`: sentences and pictures find people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np
from numpy.typing import NDArray

from tbps_infer.cli.options import EXISTING, batch_size_option, run_options, verbosity_options
from tbps_infer.cli.output import FORMATS, write_results
from tbps_infer.cli.progress import say
from tbps_infer.cli.queries import Query, read_queries

if TYPE_CHECKING:
    from tbps_infer.encoder import Encoder
    from tbps_infer.gallery import Filter, Gallery, Hit
    from tbps_infer.runners.options import RunOptions

__all__ = ["find", "search"]

_QUERIES_AT_ONCE = 256
"""Queries encoded and searched together: enough to share a pass over the vectors, few enough to stream."""


@click.command()
@click.argument("gallery", type=EXISTING)
@click.argument("texts", nargs=-1, metavar="[TEXT]...")
@click.option(
    "--queries", multiple=True, metavar="FILE", help="Sentences from a txt, CSV or JSONL file (id, text); - is stdin."
)
@click.option("--image", "images", multiple=True, type=EXISTING, help="A picture as the query: more like this one.")
@click.option("-k", "--top-k", type=click.IntRange(1), default=10, help="Hits per query.")
@click.option("--format", "form", type=click.Choice(FORMATS), default="table", help="How to print hits.")
@click.option("--html", type=click.Path(path_type=Path), help="Also write a page with thumbnails.")
@click.option("--camera", multiple=True, help="Only this camera; again for more.")
@click.option("--after", help="Only from this time on: ISO 8601, a year, or Unix seconds.")
@click.option("--before", help="Only before this time.")
@click.option("--where", metavar="SQL", help='Only where this holds, as in "shelf = 3 and id is not null".')
@click.option("--bundle", type=EXISTING, help="The model.  [default: the one that embedded the gallery]")
@batch_size_option(32)
@run_options
@verbosity_options
def search(
    gallery: Path,
    texts: tuple[str, ...],
    queries: tuple[str, ...],
    images: tuple[Path, ...],
    top_k: int,
    form: str,
    html: Path | None,
    camera: tuple[str, ...],
    after: str | None,
    before: str | None,
    where: str | None,
    bundle: Path | None,
    batch_size: int,
    run: RunOptions,
) -> None:
    """Find the people in GALLERY that each TEXT describes.

    \b
    tbps search gallery "a woman in a red coat with a grey backpack"
    tbps search gallery --queries queries.jsonl --format jsonl > hits.jsonl
    """
    from tbps_infer.encoder import Encoder
    from tbps_infer.gallery import Filter, Gallery

    if not (texts or queries or images):
        raise click.UsageError("Give a TEXT, --queries FILE or --image FILE.")
    with Gallery.open(gallery) as opened:
        model = bundle or _remembered(opened, gallery)
        with Encoder.open(model, run, batch_size=batch_size) as encoder:
            opened.require_model(encoder.facts)
            filters = Filter(camera=camera, after=after, before=before, where=where)
            results: Iterator[tuple[Query, Sequence[Hit]]]
            results = find(encoder, opened, read_queries(texts, queries, images), top_k, filters)
            if html is not None:
                from tbps_infer.render.html import write_page

                results = write_page(html, results, opened.model.layout)
            write_results(results, form, opened.model.layout)
    if html is not None:
        say(f"Wrote {html}")


def find(
    encoder: Encoder, gallery: Gallery, queries: Iterator[Query], k: int, where: Filter
) -> Iterator[tuple[Query, Sequence[Hit]]]:
    """Search for queries in groups, in bounded memory; results come in the queries' order."""
    while group := list(islice(queries, _QUERIES_AT_ONCE)):
        vectors = _encode(encoder, group)
        yield from zip(group, gallery.search(vectors, k, where), strict=True)


def _encode(encoder: Encoder, group: Sequence[Query]) -> NDArray[np.float32]:
    vectors = np.empty((len(group), encoder.facts.layout.dim), np.float32)
    texts = [i for i, query in enumerate(group) if query.text is not None]
    images = [i for i, query in enumerate(group) if query.image is not None]
    if texts:
        vectors[texts] = encoder.encode_texts([query.text for query in group if query.text is not None])
    if images:
        vectors[images] = encoder.encode_images([query.image for query in group if query.image is not None])
    return vectors


def _remembered(gallery: Gallery, path: Path) -> Path:
    from tbps_infer.errors import GalleryError

    if gallery.bundle_path is None or not gallery.bundle_path.exists():
        where = f"at {gallery.bundle_path}, where it was" if gallery.bundle_path else "recorded"
        raise GalleryError(f"The bundle of {path} is not {where}.", "Name it: --bundle BUNDLE.")
    return gallery.bundle_path

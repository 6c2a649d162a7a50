"""`tbps search`: sentences and pictures find people."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np
from numpy.typing import NDArray

from tbps_infer.cli.shared.options import (
    EXISTING,
    encoder_options,
    filter_options,
    query_options,
    verbosity_options,
)
from tbps_infer.cli.shared.output import FORMATS, write_results
from tbps_infer.cli.shared.parameter_types import EXISTING_GALLERY, Finite, NewFile
from tbps_infer.cli.shared.progress import say
from tbps_infer.cli.shared.queries import Query, combined_query, groups_as_read, groups_of, read_queries
from tbps_infer.cli.shared.source_options import list_options

if TYPE_CHECKING:
    from tbps_infer.devices import SearchBackend
    from tbps_infer.encoder import Encoder
    from tbps_infer.gallery import Filter, Hit, SearchableGallery, SearchOptions, SearchReport
    from tbps_infer.lists import ListStyle
    from tbps_infer.runners.options import RunOptions

    Result = tuple[Query, Sequence[Hit]]

__all__ = ["find", "search"]

log = logging.getLogger(__name__)

_RECALL_QUERIES = 16
"""Queries of an approximate search that are compared with an exact one."""
_GROUP_SIZE = 256
"""Queries encoded and searched together: enough to share a pass over the vectors, few enough to stream."""


@click.command()
@click.argument("gallery", type=EXISTING_GALLERY, metavar="GALLERY...")
@click.argument("texts", nargs=-1, metavar="[TEXT]...")
@click.option(
    "--queries",
    multiple=True,
    metavar="FILE",
    help="File of queries: a sentence per line, or CSV or JSONL with a text column; - is standard input. Repeatable.",
)
@list_options
@click.option("--image", "images", multiple=True, type=EXISTING, help="Picture to use as a query. Repeatable.")
@click.option("-k", "--top-k", type=click.IntRange(1), default=10, help="Number of results per query.")
@click.option("--format", "form", type=click.Choice(FORMATS), default="table", help="Output format.")
@click.option("--html", type=NewFile(), help="Also write an HTML page with thumbnails.")
@click.option("--sheet", type=NewFile(), help="Also write the thumbnails as a PNG or JPEG file.")
@click.option("--explain", is_flag=True, help="Show what each part of the model adds to a score.")
@click.option("--not", "exclude", multiple=True, metavar="TEXT", help="What the person does not have. Repeatable.")
@click.option("--together", is_flag=True, help="Combine all TEXTs and pictures into one query.")
@click.option("--image-weight", type=Finite(0, 1), default=0.5, help="Weight of the pictures, with --together.")
@click.option("--per-id", is_flag=True, help="Return only the best result of each identity.")
@click.option("--min-score", type=Finite(), help="Leave out results with a lower score.")
@click.option("--strict", is_flag=True, help="Refuse a TEXT that the model cannot read in full.")
@click.option("--approx", is_flag=True, help="Search the graph of tbps gallery index --approx; may miss results.")
@click.option("--exact", is_flag=True, help="Do not use the index of a dataset, which may miss results.")
@click.option("--probes", type=click.IntRange(1), help="Partitions of a dataset's index to search.")
@click.option("--allow-partial", is_flag=True, help="Of several galleries, search those that can be read.")
@filter_options
@query_options
@encoder_options
@verbosity_options
def search(
    gallery: Path | str,
    texts: tuple[str, ...],
    queries: tuple[str, ...],
    style: ListStyle,
    images: tuple[Path, ...],
    top_k: int,
    form: str,
    html: Path | None,
    sheet: Path | None,
    explain: bool,
    exclude: tuple[str, ...],
    together: bool,
    image_weight: float,
    per_id: bool,
    min_score: float | None,
    strict: bool,
    approx: bool,
    exact: bool,
    probes: int | None,
    allow_partial: bool,
    search_device: str,
    search_backend: SearchBackend,
    where: Filter,
    bundle: Path | None,
    batch_size: int,
    run: RunOptions,
) -> None:
    """Search GALLERY for the people that each TEXT describes.

    A GALLERY is a folder, or the URI of a dataset; several are searched as one.

    \b
    tbps search gallery "a woman in a red coat with a grey backpack"
    tbps search gallery "a man in a black suit" --not "a backpack" --camera cam_a --per-id
    tbps search gallery --queries queries.jsonl --format jsonl > hits.jsonl
    tbps search s3://bucket/north.lance s3://bucket/south.lance "a woman in a red coat" --exact
    """
    from tbps_infer.encoder import Encoder
    from tbps_infer.gallery import SearchOptions, open_galleries

    galleries, texts = _galleries(gallery, texts)
    if not (texts or queries or images):
        raise click.UsageError("Give a TEXT, --queries FILE or --image FILE.")
    if not together and _is_given("image_weight"):
        raise click.UsageError("--image-weight needs --together: a separate picture has no weight.")
    if exact and (approx or probes is not None):
        raise click.UsageError("--exact searches no index: leave out --approx and --probes.")
    options = SearchOptions(
        "graph" if approx else "exact" if exact else "auto",
        min_score,
        per_id,
        run.threads,
        probes=probes,
        crops=html is not None or sheet is not None,
        device=search_device,
        backend=search_backend,
    )
    with open_galleries(galleries, allow_partial=allow_partial) as opened:
        model = bundle or opened.require_bundle()
        with Encoder.open(model, run, batch_size=batch_size) as encoder:
            opened.require_model(encoder.facts)
            if together:
                if queries:
                    raise click.UsageError("--together combines TEXTs and pictures, not --queries.")
                read = iter([combined_query(texts, images, exclude, image_weight)])
            else:
                read = read_queries(texts, queries, images, exclude, style)
            results: Iterator[Result]
            groups = (groups_as_read if "-" in queries else groups_of)(read, _GROUP_SIZE)
            results = _with_missing(find(encoder, opened, groups, top_k, where, options, strict=strict), opened)
            with ExitStack() as written:
                if html is not None:
                    from tbps_infer.render.html import new_page

                    results = _each_to(written.enter_context(new_page(html, opened.model.layout)), results)
                if sheet is not None:
                    results = _each_to(
                        written.enter_context(_new_sheet(sheet, opened, encoder, where, top_k)), results
                    )
                several = len(galleries) > 1
                write_results(results, form, opened.model.layout, opened.columns, explain=explain, several=several)
    for file in (html, sheet):
        if file is not None:
            say(f"Wrote {file}")


def _galleries(first: Path | str, words: Sequence[str]) -> tuple[list[Path | str], tuple[str, ...]]:
    """The galleries that a command line begins with, and the words after them."""
    from tbps_infer.gallery.opening import is_gallery_name

    more = list(takewhile(is_gallery_name, words))
    return [first, *more], tuple(words[len(more) :])


def _with_missing(results: Iterator[Result], gallery: SearchableGallery) -> Iterator[Result]:
    """The results; at the end, how many of the pictures that were found are not there."""
    from tbps_infer.cli.shared.missing import missing_pictures

    missing: set[Path] = set()
    for query, hits in results:
        missing.update(hit.path for hit in hits if not hit.path.exists())
        yield query, hits
    if missing and gallery.roots:  # else it is not known where they should be
        say(missing_pictures(gallery.path, len(missing), gallery.missing_roots()))


def _is_given(option: str) -> bool:
    source = click.get_current_context().get_parameter_source(option)
    return source is click.core.ParameterSource.COMMANDLINE


def _each_to(add: Callable[[Query, Sequence[Hit]], None], results: Iterator[Result]) -> Iterator[Result]:
    """The results as they come, each added to a file on its way."""
    for query, hits in results:
        add(query, hits)
        yield query, hits


@contextmanager
def _new_sheet(
    file: Path, gallery: SearchableGallery, encoder: Encoder, where: Filter, k: int
) -> Iterator[Callable[[Query, Sequence[Hit]], None]]:
    """Yield a function that adds a query and its hits to a sheet, and the right record where no hit is one."""
    from tbps_infer.queries import encode_queries
    from tbps_infer.render.sheet import new_sheet
    from tbps_infer.render.strip import Strip, best_right, shown

    with new_sheet(file, gallery.model.layout, k) as add_strip:

        def add(query: Query, hits: Sequence[Hit]) -> None:
            tiles = tuple(shown(hit, rank, query.person) for rank, hit in enumerate(hits, start=1))
            truth = None
            if query.person is not None and not any(tile.verdict == "right" for tile in tiles):
                truth = best_right(gallery, encode_queries(encoder, [query.parts]), query.person, where)
            add_strip(Strip(query.label, tiles, truth, query.image, query.warnings))

        yield add


def find(
    encoder: Encoder,
    gallery: SearchableGallery,
    groups: Iterator[list[Query]],
    k: int,
    where: Filter | None = None,
    options: SearchOptions | None = None,
    *,
    strict: bool = False,
) -> Iterator[Result]:
    """Search for groups of queries, one group after the other; yields the results in the queries' order.

    What the model cannot read of a query is printed and kept with it, and so is why nothing was found; where the
    search is strict, the former is an error.
    """
    from tbps_infer.queries import encode_queries

    first = True
    for group in groups:
        read = [_with_warnings(encoder, query, strict) for query in group]
        vectors = encode_queries(encoder, [query.parts for query in read])
        result = gallery.search_with_report(vectors, k, where, options)
        report = result.report
        if report.share_read is not None:
            log.info("%s of %d records read %.1f %%", report.method, report.searched, 100 * report.share_read)
        if first and report.device is not None:
            say(f"Searched by {report.device}")
        remarks = _remarks(report)
        for remark in remarks if first else ():
            say(remark)
        if first and report.method == "graph":
            _report_recall(gallery, vectors[:_RECALL_QUERIES], k, options, result.hits)
        first = False
        for one, hits in zip(read, result.hits, strict=True):
            query = replace(one, warnings=(*one.warnings, *remarks))
            yield (query if hits else _with_reason(query, gallery, where, options, report.searched)), hits


def _remarks(report: SearchReport) -> tuple[str, ...]:
    """What makes an answer less than exact and whole."""
    left_out = (f"Not searched: {each}" for each in report.left_out)
    return (*left_out, *([] if report.approximate is None else [report.approximate]))


def _with_warnings(encoder: Encoder, query: Query, strict: bool) -> Query:
    from tbps_infer.errors import TbpsError

    parts = query.parts
    warnings = encoder.text_warnings((*parts.texts, *parts.exclude))
    if warnings and strict:
        raise TbpsError(
            f"Query {query.id}: {' '.join(warnings)}", "Describe the person in other words, or leave out --strict."
        )
    for warning in warnings:
        say(f"Query {query.id}: {warning}")
    return replace(query, warnings=warnings)


def _with_reason(
    query: Query, gallery: SearchableGallery, where: Filter | None, options: SearchOptions | None, passing: int
) -> Query:
    from tbps_infer.gallery import Filter, why_nothing

    min_score = None if options is None else options.min_score
    reason = why_nothing(gallery, where or Filter(), min_score, passing=passing)
    return replace(query, warnings=(*query.warnings, reason))


def _report_recall(
    gallery: SearchableGallery,
    vectors: NDArray[np.float32],
    k: int,
    options: SearchOptions | None,
    hits: Sequence[Sequence[Hit]],
) -> None:
    """Print how many results of an exact search the first queries found."""
    from tbps_infer.gallery import SearchOptions

    exact = gallery.search(vectors, k, options=replace(options or SearchOptions(), method="auto"))
    wanted = sum(map(len, exact))
    found = sum(
        len({hit.record for hit in some} & {hit.record for hit in best})
        for some, best in zip(hits, exact, strict=False)
    )
    if wanted:
        say(f"Approximate: {found} of {wanted} hits of an exact search ({len(exact)} queries compared)")

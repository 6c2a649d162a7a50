"""Parity: does a graph or an engine do what its reference does? On real crops and captions, at several shapes.

The same comparison serves every backend and precision: the reference is two callables, the candidate two runners,
and what is tolerated is a `ParityLimits`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tbps_infer.errors import BackendError, FeedError, VerificationError
from tbps_infer.layout import VectorLayout
from tbps_infer.model_facts import BRANCHES, Branch
from tbps_infer.runners.protocol import Feeds, Runner
from tbps_infer.verification.parity_report import BranchReport, ParityReport, RankingReport
from tbps_infer.verification.samples import Samples
from tbps_infer.verification.similarity import CosineSummary, cosines, largest_difference, overlaps
from tbps_infer.verification.tolerances import ParityLimits

__all__ = ["BATCH_SIZES", "LENGTHS", "Embed", "Shapes", "measure_parity"]

Embed = Callable[[Feeds], NDArray[np.float32]]
"""A branch's inputs by name to its embeddings, float32 ``[batch, dim]``."""

BATCH_SIZES = (1, 2, 7)
LENGTHS = (3, 17, 64, 100)


@dataclass(frozen=True)
class Shapes:
    """The shapes to try.

    Attributes:
        batch_sizes: An engine's least, usual and greatest.
        lengths: Tokens per caption, 3 or more; none above the model's ``max_length``.
        items: Crops, or captions, that every shape is tried on at least.
    """

    batch_sizes: tuple[int, ...] = BATCH_SIZES
    lengths: tuple[int, ...] = LENGTHS
    items: int = 8

    @classmethod
    def up_to(cls, max_length: int) -> Shapes:
        """The usual batch sizes, and the usual lengths that a model takes with its greatest."""
        return cls(lengths=tuple(sorted({min(length, max_length) for length in (*LENGTHS, max_length)})))


def measure_parity(
    reference: Mapping[Branch, Embed],
    candidate: Mapping[Branch, Runner],
    layout: VectorLayout,
    samples: Samples,
    shapes: Shapes,
    limits: ParityLimits,
) -> ParityReport:
    """Compare a candidate with its reference on the same inputs.

    Args:
        reference: The PyTorch model's two branches, or anything that is to be believed.
        candidate: Two open runners; they stay open.
        layout: The division of their embeddings.
        samples: Crops and captions to compare on.
        shapes: Batches and lengths to compare at.
        limits: How far they may be apart.

    Raises:
        VerificationError: The candidate does not run at all at one of the shapes, or gives another output. What it
            computes is in the report, and not an error here.
    """
    image, text = (
        _branch_report(branch, reference[branch], candidate[branch], layout, samples, shapes) for branch in BRANCHES
    )
    runs = {branch: _embed(runner, branch, layout) for branch, runner in candidate.items()}
    return ParityReport(
        limits=limits,
        image=image,
        text=text,
        ranking=_ranking(reference, runs, samples, shapes, limits),
        batch_sizes=shapes.batch_sizes,
        lengths=shapes.lengths,
    )


def _branch_report(
    branch: Branch, reference: Embed, candidate: Runner, layout: VectorLayout, samples: Samples, shapes: Shapes
) -> BranchReport:
    embed = _embed(candidate, branch, layout)
    batches = dict(_batches(branch, samples, shapes))
    parts = [embed(feeds) for feeds in batches.values()]
    found, wanted = np.concatenate(parts), np.concatenate([reference(feeds) for feeds in batches.values()])
    each = cosines(found, wanted)
    whole = CosineSummary.of(each)
    tried_at = [name for name, part in zip(batches, parts, strict=True) for _ in part]
    batch_drift, padding_drift = _drifts(branch, embed, samples, shapes)
    return BranchReport(
        branch=branch,
        candidate=candidate.description,
        compared=len(found),
        cosine_min=whole.minimum,
        cosine_p1=whole.p1,
        cosine_mean=whole.mean,
        segment_cosine_min={
            name: float(cosines(found, wanted, piece).min()) for name, piece in layout.slices.items()
        },
        largest_difference=largest_difference(found, wanted),
        norm_error=_norm_error(found, layout),
        batch_drift=batch_drift,
        padding_drift=padding_drift,
        worst=tried_at[int(each.argmin())],
    )


def _norm_error(found: NDArray[np.float32], layout: VectorLayout) -> float:
    """The largest difference of a norm, of the whole or of a segment, from what the layout declares."""
    declared = [(slice(None), layout.squared_norm)]
    declared += [(layout.slices[segment.name], segment.weight) for segment in layout.segments]
    norms = [np.linalg.norm(found[:, piece].astype(np.float64), axis=1) for piece, _ in declared]
    return largest_difference(norms, [[weight**0.5] for _, weight in declared])


def _batches(branch: Branch, samples: Samples, shapes: Shapes) -> Iterator[tuple[str, Feeds]]:
    """Every shape's batches, named."""
    for length in shapes.lengths if branch == "text" else (None,):
        for size in shapes.batch_sizes:
            for start in range(0, shapes.items, size):
                if length is None:
                    yield f"batch {size} from picture {start}", samples.image_batch(start, size)
                else:
                    name = f"batch {size} from caption {start}, length {length}"
                    yield name, samples.text_batch(start, size, length)


def _drifts(branch: Branch, embed: Embed, samples: Samples, shapes: Shapes) -> tuple[float, float | None]:
    """How much an item's embedding changes with the batch it is in, and with its padding."""
    size = max(shapes.batch_sizes)
    if branch == "image":
        return _batch_drift(embed, samples.image_batch(0, size)), None
    longest = max(shapes.lengths)
    differences = []
    for number in range(shapes.items):
        row = samples.caption(number, longest)
        alone = embed(samples.feeds([row]))
        beside = embed(samples.feeds([row, samples.filled(number, longest)]))
        differences.append(largest_difference(alone[0], beside[0]))
    return _batch_drift(embed, samples.text_batch(0, size, longest)), float(np.max(differences))


def _batch_drift(embed: Embed, feeds: Feeds) -> float:
    together = embed(feeds)
    alone = [embed({name: array[k : k + 1] for name, array in feeds.items()})[0] for k in range(len(together))]
    # Equal rows have come out different from an engine (NVIDIA/TensorRT#4813).
    copies = embed({name: np.repeat(array[:1], len(together), axis=0) for name, array in feeds.items()})
    return float(np.max([largest_difference(together, alone), largest_difference(copies, alone[0])]))


def _ranking(
    reference: Mapping[Branch, Embed],
    candidate: Mapping[Branch, Embed],
    samples: Samples,
    shapes: Shapes,
    limits: ParityLimits,
) -> RankingReport:
    wanted, found = (_similarities(embeds, samples, shapes) for embeds in (reference, candidate))
    captions, pictures = wanted.shape
    top_k = min(limits.top_k, pictures)
    chosen = np.argsort(-found, axis=1, kind="stable")[:, :top_k]
    best = np.sort(wanted, axis=1)[:, -top_k:]
    return RankingReport(
        captions=captions,
        pictures=pictures,
        top_k=top_k,
        overlap=float(overlaps(best, np.take_along_axis(wanted, chosen, axis=1), limits.tie).mean()),
        largest_difference=largest_difference(found, wanted),
    )


def _similarities(embeds: Mapping[Branch, Embed], samples: Samples, shapes: Shapes) -> NDArray[np.float64]:
    """Inner products, ``[captions, pictures]``."""
    size, longest = max(shapes.batch_sizes), max(shapes.lengths)
    images = [embeds["image"](samples.image_batch(k, size)) for k in range(0, len(samples.pixels), size)]
    rows = [samples.caption(k, longest) for k in range(len(samples.rows))]
    texts = [embeds["text"](samples.feeds(rows[k : k + size])) for k in range(0, len(rows), size)]
    gallery = np.concatenate(images)[: len(samples.pixels)].astype(np.float64)
    products: NDArray[np.float64] = np.concatenate(texts).astype(np.float64) @ gallery.T
    return products


def _embed(runner: Runner, branch: Branch, layout: VectorLayout) -> Embed:
    """A runner as a callable whose failures say at which shape they came."""

    def embed(feeds: Feeds) -> NDArray[np.float32]:
        shape = list(next(iter(feeds.values())).shape)
        try:
            outputs = runner.run(feeds)
        except (BackendError, FeedError) as error:
            raise VerificationError(
                f"The {branch} branch does not run on an input of shape {shape}: {error.message}", error.hint
            ) from error
        embedding = outputs.get(f"{branch}_embedding")
        if embedding is None or embedding.shape != (shape[0], layout.dim):
            given = {name: list(array.shape) for name, array in outputs.items()}
            raise VerificationError(
                f"The {branch} branch gives {given} for an input of shape {shape}; "
                f"want {branch}_embedding {[shape[0], layout.dim]}."
            )
        return embedding

    return embed

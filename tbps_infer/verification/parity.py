"""Does a graph or engine do what the PyTorch model does? On real crops and captions, at several shapes.

The same comparison serves every backend and precision: the reference is two callables, the candidate two runners,
and what is tolerated is a `VerificationLimits`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tbps_infer.errors import BackendError, FeedError, VerificationError
from tbps_infer.layout import VectorLayout
from tbps_infer.model_facts import Branch
from tbps_infer.runners.protocol import Feeds, Runner
from tbps_infer.verification.parity_report import BranchReport, RankingReport, VerificationReport
from tbps_infer.verification.samples import Samples
from tbps_infer.verification.tolerances import VerificationLimits

__all__ = ["BATCH_SIZES", "LENGTHS", "Embed", "Shapes", "verify_graphs"]

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


def verify_graphs(
    reference: Mapping[Branch, Embed],
    candidate: Mapping[Branch, Runner],
    layout: VectorLayout,
    samples: Samples,
    shapes: Shapes,
    limits: VerificationLimits,
) -> VerificationReport:
    """Compare a candidate with its reference.

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
    runs = {branch: _embed(runner, branch, layout) for branch, runner in candidate.items()}
    reports = {
        branch: _compare(branch, reference[branch], runs[branch], layout, samples, shapes).report(
            candidate[branch].description, _drifts(branch, runs[branch], samples, shapes)
        )
        for branch in ("image", "text")
    }
    return VerificationReport(
        limits=limits,
        image=reports["image"],
        text=reports["text"],
        ranking=_ranking(reference, runs, samples, shapes, limits),
        batch_sizes=shapes.batch_sizes,
        lengths=shapes.lengths,
    )


@dataclass(frozen=True)
class _Comparison:
    """Candidate and reference embeddings of the same inputs, one array per batch tried."""

    branch: Branch
    layout: VectorLayout
    shapes: tuple[str, ...]
    candidate: tuple[NDArray[np.float32], ...]
    reference: tuple[NDArray[np.float32], ...]

    def report(self, description: str, drifts: tuple[float, float | None]) -> BranchReport:
        found = np.concatenate(self.candidate).astype(np.float64)
        wanted = np.concatenate(self.reference).astype(np.float64)
        cosines = _cosines(found, wanted)
        shapes = [shape for shape, batch in zip(self.shapes, self.candidate, strict=True) for _ in batch]
        pieces = self.layout.slices
        norms = {"": np.linalg.norm(found, axis=1) - self.layout.squared_norm**0.5}
        for segment in self.layout.segments:
            norms[segment.name] = np.linalg.norm(found[:, pieces[segment.name]], axis=1) - segment.weight**0.5
        return BranchReport(
            branch=self.branch,
            candidate=description,
            compared=len(found),
            cosine_min=float(cosines.min()),
            cosine_p1=float(np.percentile(cosines, 1)),
            cosine_mean=float(cosines.mean()),
            segment_cosine_min={
                name: float(_cosines(found[:, piece], wanted[:, piece]).min()) for name, piece in pieces.items()
            },
            largest_difference=_largest_difference(found, wanted),
            norm_error=float(np.max(np.abs(list(norms.values())))),
            batch_drift=drifts[0],
            padding_drift=drifts[1],
            worst=shapes[int(cosines.argmin())],
        )


def _compare(
    branch: Branch, reference: Embed, candidate: Embed, layout: VectorLayout, samples: Samples, shapes: Shapes
) -> _Comparison:
    batches = dict(_image_batches(samples, shapes) if branch == "image" else _text_batches(samples, shapes))
    return _Comparison(
        branch=branch,
        layout=layout,
        shapes=tuple(batches),
        candidate=tuple(candidate(feeds) for feeds in batches.values()),
        reference=tuple(reference(feeds) for feeds in batches.values()),
    )


def _image_batches(samples: Samples, shapes: Shapes) -> Iterator[tuple[str, Feeds]]:
    for size in shapes.batch_sizes:
        for start in range(0, shapes.items, size):
            yield f"batch {size} from picture {start}", samples.image_batch(start, size)


def _text_batches(samples: Samples, shapes: Shapes) -> Iterator[tuple[str, Feeds]]:
    for length in shapes.lengths:
        for size in shapes.batch_sizes:
            for start in range(0, shapes.items, size):
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
        differences.append(_largest_difference(alone[0], beside[0]))
    return _batch_drift(embed, samples.text_batch(0, size, longest)), float(np.max(differences))


def _batch_drift(embed: Embed, feeds: Feeds) -> float:
    together = embed(feeds)
    alone = [embed({name: array[k : k + 1] for name, array in feeds.items()})[0] for k in range(len(together))]
    # Equal rows have come out different from an engine (NVIDIA/TensorRT#4813).
    copies = embed({name: np.repeat(array[:1], len(together), axis=0) for name, array in feeds.items()})
    return float(np.max([_largest_difference(together, alone), _largest_difference(copies, alone[0])]))


def _ranking(
    reference: Mapping[Branch, Embed],
    candidate: Mapping[Branch, Embed],
    samples: Samples,
    shapes: Shapes,
    limits: VerificationLimits,
) -> RankingReport:
    wanted, found = (_similarities(embeds, samples, shapes) for embeds in (reference, candidate))
    captions, pictures = wanted.shape
    top_k = min(limits.top_k, pictures)
    chosen = np.argsort(-found, axis=1, kind="stable")[:, :top_k]
    least = np.sort(wanted, axis=1)[:, -top_k]
    shared = np.take_along_axis(wanted, chosen, axis=1) >= least[:, None] - limits.tie
    return RankingReport(
        captions=captions,
        pictures=pictures,
        top_k=top_k,
        overlap=float(shared.mean()),
        largest_difference=_largest_difference(found, wanted),
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


def _cosines(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):  # a zero vector has no cosine, and NaN keeps no limit
        cosines: NDArray[np.float64] = (left * right).sum(axis=1) / norms
    return cosines


def _largest_difference(left: ArrayLike, right: ArrayLike) -> float:
    """NaN when either has one."""
    return float(np.max(np.abs(np.asarray(left, np.float64) - np.asarray(right, np.float64))))

"""The index of a dataset: partitions of one-bit codes (IVF_RQ), and the recall that it had when it was built."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tbps_infer.errors import GalleryError
from tbps_infer.formats.json_files import JsonObject, parse_json
from tbps_infer.gallery.lance.conditions import of_ids
from tbps_infer.gallery.lance.search import METRIC, nearest, read_vectors, scan
from tbps_infer.gallery.lance.storage import lance_errors
from tbps_infer.gallery.lance.table import KEY, VECTOR

__all__ = ["IndexFacts", "build_index", "drop_index", "index_facts"]

_CONFIG = "tbps.index"
_NAME = "tbps_vector_idx"
_KEY_NAME = "tbps_path_idx"
_FEWEST_ROWS = 1000
_DIM_FACTOR = 8
_SAMPLES = 64
_K = 10
_CANDIDATES = 200
_GOOD_RECALL = 0.99


@dataclass(frozen=True)
class IndexFacts:
    """What is known about an index.

    Attributes:
        partitions: How many it has.
        rows: Rows that it covered when it was built; later ones are searched in full.
        recall: Share of the 10 nearest rows found, by partitions searched; of vectors of the dataset's own.
        queries: How many vectors that was measured with.
    """

    partitions: int
    rows: int
    recall: Mapping[int, float]
    queries: int

    @property
    def probes(self) -> int:
        """The fewest partitions with a recall of 0.99; all where none has."""
        return next(
            (probes for probes, recall in sorted(self.recall.items()) if recall >= _GOOD_RECALL), self.partitions
        )

    def described(self, probes: int, share: float) -> str:
        """What to say of a search of some partitions, when some share of the rows passed its filter."""
        like = max(1, round(probes * share))
        measured = max((each for each in self.recall if each <= like), default=min(self.recall))
        filtered = "" if share == 1 else f" of the {share:.1%} of rows that pass the filter"
        return (
            f"Approximate: {probes} of {self.partitions} partitions searched{filtered}; when the index was built, "
            f"the recall@{_K} with {measured} was {self.recall[measured]:.3f} for {self.queries} of the vectors"
        )


def index_facts(dataset: Any) -> IndexFacts | None:
    """What is known about a dataset's index; None where it has none that was measured."""
    with lance_errors(dataset.uri, "read"):
        text = dataset.config().get(_CONFIG)
        is_there = _NAME in _names(dataset)
    if text is None or not is_there:
        return None
    try:
        values = JsonObject(parse_json(text), "index")
        recall = {int(probes): float(value) for probes, value in values.mapping("recall").items()}
        facts = IndexFacts(
            values.integer("partitions", 1), values.integer("rows", 0), recall,
            values.integer("queries", 1),
        )  # fmt: skip
        if not recall:
            raise ValueError("recall is empty")
    except ValueError as error:
        raise GalleryError(
            f"What {dataset.uri} says of its index is not valid: {error}.", "Build it again: tbps gallery index URI."
        ) from error
    return facts


def build_index(dataset: Any, max_norm: float, on_progress: Callable[[int, int], None] | None = None) -> IndexFacts:
    """Build the index over all rows, and that of paths, and measure its recall.

    Raises:
        GalleryError: There are too few rows for partitions to be worth anything.
    """
    rows = dataset.count_rows()
    if rows < _FEWEST_ROWS:
        raise GalleryError(
            f"{dataset.uri} has {rows} records: an index is for {_FEWEST_ROWS} and more.",
            "Search it as it is: reading so few takes no time.",
        )
    dim = dataset.schema.field(VECTOR).type.list_size
    if dim % _DIM_FACTOR:
        raise GalleryError(
            f"The vectors of {dataset.uri} have {dim} numbers, and an index takes multiples of {_DIM_FACTOR}.",
            "Search it as it is, exactly.",
        )
    partitions = 1 << max(2, round(0.8 * math.log2(rows) - 7.3))
    with lance_errors(dataset.uri):
        dataset.create_scalar_index(KEY, "BTREE", name=_KEY_NAME, replace=True)
        dataset.create_index(
            VECTOR, "IVF_RQ", name=_NAME, metric=METRIC, num_partitions=partitions, num_bits=1, replace=True
        )
        recall = _measure(dataset, partitions, max_norm, on_progress)
        facts = IndexFacts(partitions, rows, recall, _SAMPLES)
        dataset.update_config({_CONFIG: json.dumps(vars(facts))})
    return facts


def _names(dataset: Any) -> set[str]:
    return {index.name for index in dataset.describe_indices()}


def drop_index(dataset: Any) -> None:
    """Remove the indexes."""
    for index in _names(dataset) & {_NAME, _KEY_NAME}:
        dataset.drop_index(index)


def _measure(
    dataset: Any, partitions: int, max_norm: float, on_progress: Callable[[int, int], None] | None
) -> dict[int, float]:
    """The recall by probes, for some of the dataset's vectors, which do not count themselves."""
    ids = np.sort(dataset.scanner(columns=[], with_row_id=True).to_table().column("_rowid").to_numpy())
    chosen = np.sort(np.random.default_rng(0).choice(ids.astype(np.int64), _SAMPLES, replace=False))
    row_bytes = dataset.schema.field(VECTOR).type.list_size * 4
    own, vectors = zip(*read_vectors(dataset, of_ids(chosen), row_bytes), strict=True)
    ids, queries = np.concatenate(own), np.concatenate(vectors).astype(np.float32)
    exact = scan(read_vectors(dataset, [None], row_bytes), queries, _K + 1, max_norm)
    wanted = [set(best.ids.tolist()) - {number} for best, number in zip(exact, ids.tolist(), strict=True)]
    recall = {}
    steps = [1 << power for power in range(partitions.bit_length())]
    for step, probes in enumerate(steps, 1):
        found = [
            set(nearest(dataset, query, _K + 1, None, probes=probes, candidates=_CANDIDATES).ids.tolist())
            for query in queries
        ]
        recall[probes] = sum(len(a & b) for a, b in zip(found, wanted, strict=True)) / sum(map(len, wanted))
        if on_progress is not None:
            on_progress(step, len(steps))
    return recall

"""The rows of a vector file that a search goes through, and where they stand among all that it searches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Block", "Rows", "Selection"]

# Gathering a row takes about as long as multiplying three that lie in place with one query: between two of 6656
# numbers and four of 512 (measured).
_GATHERING = 3


@dataclass(frozen=True)
class Block:
    """A block of rows to read.

    Attributes:
        stored: What indexes the file's arrays: a slice, which is read in place, or rows, which are copied.
        wanted: int64 ``[n]``: which of these are the rows, in their order; None for all as they are.
    """

    stored: slice | NDArray[np.int64]
    wanted: NDArray[np.int64] | None

    def of(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """The rows' own of what was computed of all that is read, ``[m, q]`` to ``[n, q]``."""
        return values if self.wanted is None else values[self.wanted]


@dataclass(frozen=True)
class Rows:
    """Rows to search, in the order that decides between equal scores; made by `of`.

    Attributes:
        numbers: int64 ``[n]``, their places in the file.
        consecutive: Whether they lie one behind the other: then any block of them is read in place.
        positions: int64 ``[n]``, their indices among all rows of the search; None where they begin them.
    """

    numbers: NDArray[np.int64]
    consecutive: bool
    positions: NDArray[np.int64] | None = None

    @classmethod
    def of(cls, numbers: NDArray[np.int64]) -> Rows:
        """All rows of a search, int64 ``[n]``."""
        return cls(numbers, _consecutive(numbers))

    def __len__(self) -> int:
        return len(self.numbers)

    def stored(self, start: int, stop: int) -> slice | NDArray[np.int64]:
        """What indexes the file's arrays to get some of them: those that lie one behind the other are not copied."""
        some = self.numbers[start:stop]
        if self.consecutive or _consecutive(some):
            return slice(int(some[0]), int(some[0]) + len(some))
        return some

    def block(self, start: int, stop: int, queries: int) -> Block:
        """Some of them as they are best read for a number of queries.

        Where enough of a run is wanted the run is read in place, the rest of it for nothing.
        """
        some = self.numbers[start:stop]
        if self.consecutive:
            return Block(slice(int(some[0]), int(some[0]) + len(some)), None)
        first, last = int(some.min()), int(some.max())
        if last - first + 1 > (1 + _GATHERING / queries) * len(some):
            return Block(some, None)
        inside = some - first
        whole = last - first + 1 == len(some) and bool((inside[1:] > inside[:-1]).all())
        return Block(slice(first, last + 1), None if whole else inside)

    def positions_of(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions int64 ``[m]`` of some of them, ``indices`` int64 ``[m]`` into `numbers`."""
        return indices if self.positions is None else self.positions[indices]

    def places(self, count: int) -> NDArray[np.int64]:
        """Positions int64 ``[count]`` of the first rows of the file, -1 for those that are not among these."""
        places = np.full(count, -1, dtype=np.int64)
        places[self.numbers] = self.positions_of(np.arange(len(self)))
        return places

    def split(self, count: int) -> tuple[Rows, Rows]:
        """Those of all rows of a search that are among the first `count` of the file, and the others."""
        if self.consecutive and len(self):
            inside = min(max(0, count - int(self.numbers[0])), len(self))
            within = Rows(self.numbers[:inside], True)
            return within, Rows(self.numbers[inside:], True, np.arange(inside, len(self)))
        covered = self.numbers < count
        if covered.all():
            return self, self.take(np.empty(0, dtype=np.int64))
        return self.take(np.flatnonzero(covered)), self.take(np.flatnonzero(~covered))

    def take(self, positions: NDArray[np.int64]) -> Rows:
        """Some of all rows of a search, by position."""
        numbers = self.numbers[positions]
        return Rows(numbers, _consecutive(numbers), positions)


class Selection(NamedTuple):
    """The records that a search goes through.

    Attributes:
        records: int64 ``[n]``, their numbers, ascending.
        rows: The rows of their embeddings, in the same order.
    """

    records: NDArray[np.int64]
    rows: Rows


def _consecutive(numbers: NDArray[np.int64]) -> bool:
    if not len(numbers):
        return True
    if int(numbers[-1]) - int(numbers[0]) != len(numbers) - 1:
        return False
    return bool((numbers[1:] - numbers[:-1] == 1).all())

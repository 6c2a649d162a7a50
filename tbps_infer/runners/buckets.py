"""The shapes that a device runs: few, so that each is prepared once, with items filled up to the next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_infer.errors import FeedError
from tbps_infer.runners.protocol import Feeds

__all__ = ["batch_buckets", "batches_of", "bucket_for", "fill_rows", "fill_text", "free_bucket", "rows_of"]


def batch_buckets(minimum: int, maximum: int) -> tuple[int, ...]:
    """The least batch, the powers of two above it, and the greatest."""
    powers = (1 << exponent for exponent in range(maximum.bit_length()))
    return tuple(sorted({minimum, maximum, *(power for power in powers if minimum < power < maximum)}))


def bucket_for(size: int, buckets: Sequence[int]) -> int:
    """The least bucket that holds so many. Raises FeedError when none does."""
    for bucket in buckets:
        if bucket >= size:
            return bucket
    raise FeedError(f"want at most {buckets[-1]}, got {size}")


def free_bucket(size: int) -> int:
    """The bucket for so many where nothing sets a greatest: a power of two up to 32, above it a multiple of 32."""
    return 1 << (size - 1).bit_length() if size <= 32 else -(-size // 32) * 32


def rows_of(feeds: Feeds) -> int:
    """How many items there are."""
    return int(next(iter(feeds.values())).shape[0])


def batches_of(feeds: Feeds, most: int) -> Iterator[Feeds]:
    """The items in order, so many at a time at most."""
    for start in range(0, rows_of(feeds), most):
        yield {name: array[start : start + most] for name, array in feeds.items()}


def fill_rows(feeds: Feeds, rows: int) -> dict[str, NDArray[Any]]:
    """The items and, up to so many, the first of them again: an all-zero one would be a caption of padding alone."""
    missing = rows - rows_of(feeds)
    return {name: np.concatenate([array, np.repeat(array[:1], missing, axis=0)]) for name, array in feeds.items()}


def fill_text(feeds: Feeds, length: int, pad_id: int) -> dict[str, NDArray[Any]]:
    """Captions filled up to an engine's length with masked padding."""
    filled = {}
    for name, array in feeds.items():
        padding = ((0, 0), (0, length - array.shape[1]))
        filled[name] = np.pad(array, padding, constant_values=pad_id if name == "input_ids" else 0)
    return filled

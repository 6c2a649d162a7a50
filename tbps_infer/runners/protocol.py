"""What every inference backend offers, and the one check of what it is fed."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tbps_infer.errors import FeedError
from tbps_infer.model_facts import Branch, ModelFacts

__all__ = [
    "DeviceTimes",
    "Feeds",
    "Runner",
    "SerialRunner",
    "TensorSpec",
    "blank_feeds",
    "branch_specs",
    "check_feeds",
]

Feeds = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class TensorSpec:
    """Name, type and shape of one input or output; a string in the shape names a dynamic axis."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class DeviceTimes:
    """Milliseconds of one run on a device: what a runner with ``run_timed`` tells beside its outputs."""

    host_to_device_ms: float
    compute_ms: float
    device_to_host_ms: float


class Runner(Protocol):
    """One branch of a model, loaded and ready to run.

    `run` and `run_stream` take arrays by input name and return arrays by output name; they do not change their inputs
    and their outputs stay valid after the next call. A runner is used from one thread at a time.
    """

    @property
    def inputs(self) -> Sequence[TensorSpec]:
        """What `run` wants."""

    @property
    def outputs(self) -> Sequence[TensorSpec]:
        """What `run` gives."""

    @property
    def description(self) -> str:
        """Backend, provider, device and precision really in use, read back from it; for logs and reports."""

    def run(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        """Run the graph once. Raises FeedError when the arrays do not fit `inputs`."""

    def run_stream(self, batches: Iterable[Feeds]) -> Generator[dict[str, NDArray[Any]], None, None]:
        """Run batch after batch and yield the outputs of each, in order.

        The next batches may be taken and put on their way before the outputs of one are yielded. Closing the
        generator drops what is under way. Raises as `run`, and whatever `batches` raises.
        """

    def stage(self, rows: int) -> dict[str, NDArray[Any]]:
        """Arrays for the pixels of so many pictures, from which a device copies without another copy on the host.

        They are the caller's to fill again and again, valid until `close`. Fed to `run_stream`, whole or their first
        rows, they must keep their numbers until that batch's outputs are yielded; the rows after those are spoiled.
        """

    def warm(self, rows: int, length: int) -> None:
        """Do now what the first runs would wait for: run each shape that comes of batches up to these sizes.

        Args:
            rows: Items per batch at most.
            length: Tokens per caption at most.
        """

    def close(self) -> None:
        """Free what it holds; running afterwards raises FeedError; closing twice is harmless."""


class SerialRunner:
    """What runners inherit that run one batch at a time and copy nothing by themselves."""

    def run_stream(self: Runner, batches: Iterable[Feeds]) -> Generator[dict[str, NDArray[Any]], None, None]:
        """Run batch after batch; a batch is taken when the one before it was yielded."""
        for feeds in batches:
            yield self.run(feeds)

    def stage(self: Runner, rows: int) -> dict[str, NDArray[Any]]:
        """Ordinary arrays."""
        return blank_feeds(self.inputs, rows)

    def warm(self: Runner, rows: int, length: int) -> None:
        """Run one item: what is loaded and allocated once does not depend on how many there are."""
        del rows
        self.run(blank_feeds(self.inputs, 1, length))


def blank_feeds(specs: Sequence[TensorSpec], rows: int, length: int = 0) -> dict[str, NDArray[Any]]:
    """Arrays full of ones: pixels, or captions of ``length`` tokens without padding."""
    return {
        spec.name: np.ones(
            (rows, *(length if isinstance(axis, str) else axis for axis in spec.shape[1:])), spec.dtype
        )
        for spec in specs
    }


def branch_specs(facts: ModelFacts, branch: Branch) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """The inputs and outputs of a branch, the same for every backend.

    Returns:
        For ``image``: ``pixels`` uint8 ``[batch, height, width, 3]`` to ``image_embedding`` float32
        ``[batch, dim]``. For ``text``: ``input_ids`` and ``attention_mask`` int32 ``[batch, length]`` to
        ``text_embedding`` float32 ``[batch, dim]``.
    """
    inputs: tuple[TensorSpec, ...]
    if branch == "image":
        height, width = facts.preprocessing.image_size
        inputs = (TensorSpec("pixels", np.dtype(np.uint8), ("batch", height, width, 3)),)
    else:
        names = ("input_ids", "attention_mask")
        inputs = tuple(TensorSpec(name, np.dtype(np.int32), ("batch", "length")) for name in names)
    return inputs, (TensorSpec(f"{branch}_embedding", np.dtype(np.float32), ("batch", facts.layout.dim)),)


def check_feeds(specs: Sequence[TensorSpec], feeds: Feeds) -> None:
    """Compare arrays with what a graph wants: names, types, ranks, fixed sizes, and equal dynamic axes.

    Raises:
        FeedError: Something differs; the sentence says what was wanted and what was given.
    """
    wanted = {spec.name for spec in specs}
    if wanted != set(feeds):
        raise FeedError(f"want inputs {sorted(wanted)}, got {sorted(feeds)}")
    axes: dict[str, int] = {}
    for spec in specs:
        array = feeds[spec.name]
        given = f"{array.dtype}[{', '.join(map(str, array.shape))}]"
        fits = array.dtype == spec.dtype and len(array.shape) == len(spec.shape)
        if not fits or any(
            want != have for want, have in zip(spec.shape, array.shape, strict=False) if isinstance(want, int)
        ):
            raise FeedError(f"want {spec}, got {given}")
        for axis, size in zip(spec.shape, array.shape, strict=True):
            if isinstance(axis, str) and axes.setdefault(axis, size) != size:
                raise FeedError(f"{spec.name}: {axis} is {size}, and {axes[axis]} in another input")
        if 0 in array.shape:
            raise FeedError(f"want {spec}, got an empty array {given}")

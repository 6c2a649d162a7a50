"""Pictures and sentences to embeddings, over the two branches of one model on any backend."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from itertools import chain, islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tbps_infer.bundle import Bundle
from tbps_infer.decoding import decode_threads, decoded_in_order
from tbps_infer.devices import Device
from tbps_infer.errors import FeedError, UsageError, VerificationError
from tbps_infer.model_facts import BRANCHES, Branch, ModelFacts
from tbps_infer.pictures import Picture, as_pictures
from tbps_infer.runners import Feeds, Runner, RunOptions, open_model, open_runner
from tbps_infer.runners.buckets import rows_of
from tbps_infer.runners.protocol import branch_specs

if TYPE_CHECKING:
    from PIL import Image

    from tbps_infer.families.options import LoadOptions
    from tbps_infer.families.table import SourceModel
    from tbps_infer.text import Tokenizer

__all__ = ["NORM_TOLERANCE", "Encoder"]

NORM_TOLERANCE = 1e-3
"""How far a segment's squared norm may lie from its declared weight, relative to it.

FP32 and FP16 graphs that normalise in FP32 stay below 1e-6; a graph that overflowed, lost its normalisation or
belongs to another layout is off by far more than this.
"""

_DEFAULT = RunOptions()

_BATCHES_DECODED_AHEAD = 2

_RUN_TOKENS = 32
"""What a run costs on a CPU beside its tokens, in tokens: 4 in FP32 and 22 in INT8 at full size, by the runs of one
and of 16 captions in docs/performance.md; the greater, rounded up."""

_logger = logging.getLogger(__name__)


class Encoder:
    """A model ready to embed; a context manager.

    Each branch is opened at its first use, so that searching by text never loads the image branch. Embeddings are
    checked: shape, type, finite, and the norm of every segment. Use it from one thread at a time.

    Args:
        facts: What the model is.
        tokenizer: The model's own.
        image: Opens the image branch.
        text: Opens the text branch.
        batch_size: Items per run at most.
        least_filling: Whether to run fewer captions at once where that saves more filling than a run costs, as on a
            CPU. A GPU would rather have full batches.

    Raises:
        UsageError: The batch size is below 1.
    """

    def __init__(
        self,
        facts: ModelFacts,
        tokenizer: Tokenizer,
        image: Callable[[], Runner],
        text: Callable[[], Runner],
        *,
        batch_size: int = 32,
        least_filling: bool = False,
    ) -> None:
        if batch_size < 1:
            raise UsageError(f"The batch size is {batch_size}, want 1 or more.")
        self.facts = facts
        self.batch_size = batch_size
        self._least_filling = least_filling
        self._tokenizer = tokenizer
        self._openers: dict[Branch, Callable[[], Runner]] = {"image": image, "text": text}
        self._runners: dict[Branch, Runner] = {}
        self._staged: dict[int, list[dict[str, NDArray[Any]]]] = {}
        self._closed = False

    @classmethod
    def open(
        cls,
        path: Path | str,
        options: RunOptions = _DEFAULT,
        *,
        batch_size: int = 32,
        load: LoadOptions | None = None,
    ) -> Encoder:
        """Open a bundle, or, with the backend ``torch``, a checkpoint, about which ``load`` may say more.

        Raises:
            UsageError: The path is neither, the backend does not run it, or ``load`` means nothing to it.
            BundleError: The bundle is damaged.
            CheckpointError: The checkpoint cannot be read.
            BackendError: The backend is not installed. What the device lacks shows at a branch's first use.
        """
        return cls.of_model(open_model(Path(path), options, load), options, batch_size=batch_size)

    @classmethod
    def of_model(
        cls, model: Bundle | SourceModel, options: RunOptions = _DEFAULT, *, batch_size: int = 32
    ) -> Encoder:
        """As `open`, from what `tbps_infer.runners.open_model` gives.

        Raises:
            BundleError: The bundle's tokenizer is missing or was altered.
        """
        from tbps_infer.text import Tokenizer

        if isinstance(model, Bundle):
            facts, tokenizer = model.model, Tokenizer.from_bundle(model)
        else:
            facts, tokenizer = model.facts, Tokenizer.from_facts(model.tokenizer_path, model.facts)
        return cls(
            facts,
            tokenizer,
            lambda: open_runner(model, "image", options),
            lambda: open_runner(model, "text", options),
            batch_size=batch_size,
            least_filling=Device.parse(options.device).kind == "cpu",
        )

    def __enter__(self) -> Encoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the branches that were opened; encoding afterwards is a FeedError; closing twice is harmless.

        Raises:
            BackendError: A device failed before; the other branch is closed all the same.
        """
        self._closed = True
        self._staged.clear()
        with ExitStack() as stack:
            while self._runners:
                stack.callback(self._runners.popitem()[1].close)

    def runner(self, branch: Branch) -> Runner:
        """The runner of a branch, opened now if it was not; for its description, and for measuring it.

        Raises:
            BackendError: It cannot be opened on this machine.
            BundleError: Its graph is missing or was altered.
            VerificationError: Its inputs or outputs are not those of this kind of branch.
            FeedError: The encoder is closed.
        """
        if self._closed:
            raise FeedError("the encoder is closed")
        if branch not in self._runners:
            self._runners[branch] = self._open_branch(branch)
        return self._runners[branch]

    def encode_crops(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed pictures that have the model's size.

        Args:
            crops: uint8 ``[n, height, width, 3]``, RGB, as `tbps_infer.images.to_crop` makes them.

        Returns:
            float32 ``[n, dim]``.

        Raises:
            FeedError: The crops have another size or type.
            BackendError: The backend failed.
            VerificationError: What came out is no embedding of this model.
        """
        parts = self._parts(len(crops))
        return self._gathered("image", len(crops), parts, ({"pixels": crops[part]} for part in parts))

    def encode_stream(
        self, crops: Iterable[NDArray[np.uint8]], batch_size: int | None = None
    ) -> Generator[NDArray[np.float32], None, None]:
        """Embed pictures of the model's size as they come; while a batch computes the next ones are taken.

        They are written straight into what the runner staged for them, three batches of it with engines. Close the
        generator if it is not exhausted.

        Args:
            crops: uint8 ``[height, width, 3]`` each, RGB. What taking one raises is passed on.
            batch_size: Pictures per run; when not given, the encoder's own.

        Yields:
            float32 ``[n, dim]``: the next ``batch_size`` of them, at the end what is left. Raises as `encode_crops`.
        """
        size = self.batch_size if batch_size is None else batch_size
        if size < 1:
            raise UsageError(f"The batch size is {size}, want 1 or more.")
        source = iter(crops)
        first = next(source, None)
        if first is None:  # a branch is opened when there is something to embed
            return
        staged = self._staged.pop(size, [])  # taken out: another stream meanwhile has its own
        free, used = list(staged), deque[dict[str, NDArray[Any]]]()  # what may be filled, and what is under way

        def batches() -> Iterator[Feeds]:
            crop: NDArray[np.uint8] | None = first
            while crop is not None:
                if not free:
                    staged.append(self.runner("image").stage(size))
                    free.append(staged[-1])
                if self._closed:  # what was staged is freed
                    raise FeedError("the encoder is closed")
                used.append(free.pop())
                pixels = used[-1]["pixels"]
                yield {"pixels": pixels[: _fill(pixels, chain([crop], islice(source, size - 1)))]}
                crop = next(source, None)

        try:
            with closing(self._stream("image", batches())) as stream:
                for vectors in stream:
                    free.append(used.popleft())
                    yield vectors
        finally:
            if not self._closed:
                self._staged.setdefault(size, []).extend(staged)

    def encode_images(self, sources: Picture | Iterable[Picture]) -> NDArray[np.float32]:
        """Decode, resize and embed pictures; the next ones are decoded while a batch is embedded.

        Args:
            sources: Pictures, or one: a file's path, its bytes, an open binary file, a Pillow image, or an array
                uint8 ``[height, width, 3]`` in RGB.

        Returns:
            float32 ``[n, dim]``; of one picture ``[1, dim]``.

        Raises:
            UsageError: A source is nothing of this.
            ImageError: The first picture that cannot be decoded.
            BackendError, VerificationError: As `encode_crops`.
        """
        sources = as_pictures(sources)
        vectors = self._empty(len(sources))
        ahead = _BATCHES_DECODED_AHEAD * self.batch_size
        with (
            closing(decoded_in_order(self._crop, sources, ahead=ahead, threads=decode_threads())) as crops,
            closing(self.encode_stream(crops)) as stream,
        ):
            for part, found in zip(self._parts(len(sources)), stream, strict=True):
                vectors[part] = found
        return vectors

    def encode_texts(self, captions: str | Sequence[str]) -> NDArray[np.float32]:
        """Embed captions.

        They are sorted by length and cut into batches, each filled up to its longest, which saves the work on
        padding; the rows come back in the order of the captions.

        Args:
            captions: Captions, or one.

        Returns:
            float32 ``[n, dim]``; of one caption ``[1, dim]``.

        Raises:
            UsageError: A caption is no text or has no words; the sentence gives its number, counted from 1.
            BackendError, VerificationError: As `encode_crops`.
        """
        from tbps_infer.text import pad_ids

        rows = self._tokenizer.encode(_as_captions(captions))
        by_length = sorted(range(len(rows)), key=lambda index: len(rows[index]))
        cuts = self._parts(len(rows))
        if self._least_filling:
            cuts = _with_least_filling([len(rows[index]) for index in by_length], self.batch_size)
        parts = [by_length[part] for part in cuts]

        def padded(part: list[int]) -> Feeds:
            ids, mask = pad_ids([rows[index] for index in part], self.facts.pad_id)
            return {"input_ids": ids, "attention_mask": mask}

        return self._gathered("text", len(rows), parts, map(padded, parts))

    def warm(self) -> None:
        """Open both branches and run every shape once that later calls will use, so that none of them waits for it.

        Raises:
            BackendError, BundleError, VerificationError: As `runner`.
        """
        for branch in BRANCHES:
            started = time.perf_counter()
            runner = self.runner(branch)
            runner.warm(self.batch_size, self.facts.max_length)
            _logger.info("warmed %s: %s, %.1f s", branch, runner.description, time.perf_counter() - started)

    def text_warnings(self, captions: Sequence[str]) -> tuple[str, ...]:
        """What of some captions the model cannot take in: see `tbps_infer.text.Tokenizer.warnings`."""
        return self._tokenizer.warnings(captions)

    def unknown_words(self, caption: str) -> tuple[str, ...]:
        """The words of a caption that the model does not know."""
        return self._tokenizer.unknown_words(caption)

    def _open_branch(self, branch: Branch) -> Runner:
        runner = self._openers[branch]()
        wanted = [sorted(spec.name for spec in specs) for specs in branch_specs(self.facts, branch)]
        given = [sorted(spec.name for spec in specs) for specs in (runner.inputs, runner.outputs)]
        if wanted != given:
            description = runner.description
            runner.close()
            raise VerificationError(
                f"The {branch} branch ({description}) takes {given[0]} and gives {given[1]}, "
                f"want {wanted[0]} and {wanted[1]}.",
                "Export the bundle again.",
            )
        return runner

    def _crop(self, source: Path | bytes | Image.Image) -> NDArray[np.uint8]:
        from tbps_infer.images import load_crop, to_crop

        if isinstance(source, Path | bytes):
            return load_crop(source, self.facts.preprocessing)
        return to_crop(source, self.facts.preprocessing)

    def __repr__(self) -> str:
        layout = self.facts.layout
        open_branches = ", ".join(self._runners[branch].description for branch in BRANCHES if branch in self._runners)
        state = "closed" if self._closed else open_branches or "nothing opened yet"
        return f"<Encoder of {self.facts.family} {self.facts.fingerprint[:12]}, {layout.dim} numbers; {state}>"

    def _empty(self, count: int) -> NDArray[np.float32]:
        return np.empty((count, self.facts.layout.dim), dtype=np.float32)

    def _parts(self, count: int) -> list[slice]:
        return [slice(start, start + self.batch_size) for start in range(0, count, self.batch_size)]

    def _gathered(
        self, branch: Branch, count: int, parts: Sequence[slice | list[int]], batches: Iterable[Feeds]
    ) -> NDArray[np.float32]:
        """Embeddings of batches, each put where its part says."""
        vectors = self._empty(count)
        if count:
            with closing(self._stream(branch, batches)) as stream:
                for part, found in zip(parts, stream, strict=True):
                    vectors[part] = found
        return vectors

    def _stream(self, branch: Branch, batches: Iterable[Feeds]) -> Generator[NDArray[np.float32], None, None]:
        """Embeddings of each batch, checked. Raises FeedError, BackendError, VerificationError."""
        runner = self.runner(branch)
        counts = deque[int]()

        def counted() -> Iterator[Feeds]:
            for feeds in batches:
                counts.append(rows_of(feeds))
                yield feeds

        with closing(runner.run_stream(counted())) as stream:
            for outputs in stream:
                vectors = outputs[f"{branch}_embedding"]
                problem = _problem(vectors, self.facts, counts.popleft())
                if problem:
                    raise VerificationError(
                        f"The {branch} branch ({runner.description}) {problem}.",
                        "The model or the backend is broken: export the bundle again, which verifies it.",
                    )
                yield vectors


def _with_least_filling(lengths: Sequence[int], most: int) -> list[slice]:
    """Cut ascending lengths into parts of at most `most`, so that all that is computed is the least.

    A part costs its size times its greatest length, and `_RUN_TOKENS`.
    """
    costs, starts = [0], [0]
    for stop in range(1, len(lengths) + 1):
        longest = lengths[stop - 1]
        costs_from = {start: costs[start] + (stop - start) * longest for start in range(max(0, stop - most), stop)}
        start = min(costs_from, key=costs_from.__getitem__)
        costs.append(costs_from[start] + _RUN_TOKENS)
        starts.append(start)
    parts, stop = [], len(lengths)
    while stop:
        parts.append(slice(starts[stop], stop))
        stop = starts[stop]
    return parts[::-1]


def _as_captions(captions: str | Sequence[str]) -> Sequence[str]:
    if isinstance(captions, bytes | Mapping) or not isinstance(captions, Iterable):
        raise UsageError(f"The captions are {captions!r}, want text, or a list of texts.")
    captions = [captions] if isinstance(captions, str) else list(captions)
    for number, caption in enumerate(captions, start=1):
        if not isinstance(caption, str):
            raise UsageError(f"Caption {number} is {caption!r}, want text.")
    return captions


def _fill(rows: NDArray[np.uint8], crops: Iterable[NDArray[np.uint8]]) -> int:
    """Write crops into the first rows and count them. Raises FeedError for one of another size or type."""
    count = 0
    for crop in crops:
        if crop.shape != rows.shape[1:] or crop.dtype != rows.dtype:
            raise FeedError(f"want crops of {rows.dtype}{list(rows.shape[1:])}, got {crop.dtype}{list(crop.shape)}")
        rows[count] = crop
        count += 1
    return count


def _problem(vectors: NDArray[np.float32], facts: ModelFacts, count: int) -> str:
    """What keeps an array from being embeddings of a model; empty when nothing does."""
    layout = facts.layout
    if vectors.shape != (count, layout.dim) or vectors.dtype != np.float32:
        return f"gave {vectors.dtype}{list(vectors.shape)}, want float32{[count, layout.dim]}"
    starts = [piece.start for piece in layout.slices.values()]
    squared = np.add.reduceat(np.square(vectors), starts, axis=1)
    weights = np.array([segment.weight for segment in layout.segments], dtype=np.float32)
    # Written so that NaN is out of bounds too.
    wrong = np.argwhere(~(np.abs(squared - weights) <= NORM_TOLERANCE * weights))
    if not len(wrong):
        return ""
    item, segment = wrong[0]
    if not np.isfinite(vectors[item]).all():
        return f"gave NaN or infinite numbers for {len(set(wrong[:, 0]))} of {count} items"
    declared = layout.segments[segment]
    return f"gave a squared norm of {squared[item, segment]:.4g} in {declared.name}, want {declared.weight:.4g}"

"""The runner, over a fake engine that computes with numpy in fake device memory, late as a GPU does."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from fake_memory import FakeMemory
from fake_tensorrt import fake_library
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tbps_infer.embedding import EmbedOptions, embed_gallery
from tbps_infer.encoder import Encoder
from tbps_infer.errors import BackendError, FeedError, ImageError
from tbps_infer.gallery import Gallery
from tbps_infer.layout import Segment, VectorLayout
from tbps_infer.runners.buckets import batch_buckets, bucket_for
from tbps_infer.runners.fake import fake_facts
from tbps_infer.runners.protocol import DeviceTimes, Feeds, TensorSpec
from tbps_infer.sources import read_sources
from tbps_infer.tensorrt.runner import TensorRTRunner
from tbps_infer.tensorrt.runtime_cache import RuntimeCache
from tbps_infer.tensorrt.session import EngineSession
from tbps_infer.text import Tokenizer

DIM = 3
IMAGE = (
    (TensorSpec("pixels", np.dtype(np.uint8), ("batch", 4, 2, 3)),),
    (TensorSpec("image_embedding", np.dtype(np.float32), ("batch", DIM)),),
)
TEXT = (
    tuple(TensorSpec(name, np.dtype(np.int32), ("batch", "length")) for name in ("input_ids", "attention_mask")),
    (TensorSpec("text_embedding", np.dtype(np.float32), ("batch", DIM)),),
)


def embed(feeds: Feeds) -> NDArray[np.float32]:
    """What the fake engine computes: order-dependent sums over each item's real numbers."""
    if "pixels" in feeds:
        values = feeds["pixels"].reshape(len(feeds["pixels"]), -1).astype(np.float64)
    else:
        assert feeds["attention_mask"].any(axis=1).all(), "a row of padding alone"
        values = (feeds["input_ids"] * feeds["attention_mask"]).astype(np.float64)
    weights = np.cos(np.arange(values.shape[1] * DIM)).reshape(DIM, -1)[:, : values.shape[1]]
    result: NDArray[np.float32] = (values @ weights.T).astype(np.float32)
    return result


FACTS = fake_facts((4, 2), layout=VectorLayout((Segment("global", DIM),)))


def unit_embed(feeds: Feeds) -> NDArray[np.float32]:
    """As `embed`, of the norm that embeddings have."""
    values = feeds["pixels"].reshape(len(feeds["pixels"]), -1).astype(np.float64)
    values = values @ np.cos(np.arange(values.shape[1] * DIM)).reshape(-1, DIM)
    result: NDArray[np.float32] = (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)
    return result


def pixels_of(number: int) -> NDArray[np.uint8]:
    return np.random.default_rng(number).integers(0, 256, (4, 2, 3), dtype=np.uint8)


def picture(number: int) -> bytes:
    """A file of the crop's own size."""
    return b"P6 2 4 255\n" + pixels_of(number).tobytes()


class FakeContext:
    """Shapes and addresses as set; a run reads and writes the memory when the stream gets to it."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.scratch: tuple[int, int] | None = None
        self.calls: list[str] = []

    def set_device_memory(self, address: int, size: int) -> None:
        self.scratch = (address, size)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.calls.append("shape")
        low, high = self.engine.profile[name]
        self.shapes[name] = tuple(shape)
        return all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))

    def infer_shapes(self) -> list[str]:
        return [spec.name for spec in self.engine.specs[0] if spec.name not in self.shapes]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        assert name == self.engine.specs[1][0].name
        return (next(iter(self.shapes.values()))[0], DIM)

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        if self.engine.failing:
            self.engine.recorder.report_error(None, "the kernel is on strike")
            return False
        self.calls.append("execute")
        self.engine.executed += 1
        memory = self.engine.memory
        memory.put(stream, self._compute)
        return True

    def _compute(self) -> None:
        memory, (inputs, outputs) = self.engine.memory, self.engine.specs
        assert self.scratch is not None
        scratch = memory.bytes_at(*self.scratch)
        scratch[:] = 7  # whoever else computed in there at the same time would find this
        feeds = {}
        for spec in inputs:
            shape = self.shapes[spec.name]
            raw = memory.bytes_at(self.addresses[spec.name], int(np.prod(shape)) * spec.dtype.itemsize)
            feeds[spec.name] = raw.view(spec.dtype).reshape(shape)
        result = embed(feeds)
        self.engine.batches.append(len(result))
        memory.bytes_at(self.addresses[outputs[0].name], result.nbytes)[:] = result.view(np.uint8).reshape(-1)


class FakeEngine:
    """A deserialized engine with one profile."""

    num_optimization_profiles = 1
    device_memory_size_v2 = 64

    def __init__(
        self,
        memory: FakeMemory,
        recorder: Any,
        specs: Any = IMAGE,
        *,
        length: int | None = None,
        batch: tuple[int, int] = (1, 8),
    ) -> None:
        self.memory, self.recorder, self.specs = memory, recorder, specs
        self.failing = False
        self.executed = 0
        self.batches: list[int] = []
        self.contexts: list[FakeContext] = []
        self.profile = {
            spec.name: tuple(
                tuple({"batch": size, "length": length}.get(axis, axis) for axis in spec.shape) for size in batch
            )
            for spec in specs[0]
        }

    @property
    def num_io_tensors(self) -> int:
        return sum(map(len, self.specs))

    def get_tensor_name(self, number: int) -> str:
        return str((*self.specs[0], *self.specs[1])[number].name)

    def get_tensor_mode(self, name: str) -> str:
        return "INPUT" if name in self.profile else "OUTPUT"

    def get_tensor_dtype(self, name: str) -> Any:
        (spec,) = (spec for spec in (*self.specs[0], *self.specs[1]) if spec.name == name)
        return SimpleNamespace(name={"uint8": "UINT8", "int32": "INT32", "float32": "FLOAT"}[str(spec.dtype)])

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        assert profile == 0
        low, high = self.profile[name]
        return [low, high, high]

    def create_execution_context(self, strategy: str) -> FakeContext:
        assert strategy == "USER_MANAGED"
        self.contexts.append(FakeContext(self))
        return self.contexts[-1]


class Setup:
    """A runner over fake engines, and everything under it."""

    def __init__(
        self, *, lengths: tuple[int, ...] = (), batch: tuple[int, int] = (1, 8), graphs: bool = True
    ) -> None:
        self.memory = FakeMemory(has_graphs=graphs)
        self.library = fake_library()
        self.specs = TEXT if lengths else IMAGE
        self.engines: dict[int | None, FakeEngine] = {}
        self.released = 0
        loaders = {length: self._loader(length, batch) for length in (lengths or (None,))}
        self.runner = TensorRTRunner(
            self.specs, loaders, self.memory, pad_id=9, description="fake", release=self._release
        )

    def _loader(self, length: int | None, batch: tuple[int, int]) -> Callable[[], EngineSession]:
        def load() -> EngineSession:
            engine = FakeEngine(self.memory, self.library.recorder, self.specs, length=length, batch=batch)
            self.engines[length] = engine
            return EngineSession(self.library, engine, self.memory, self.specs)

        return load

    def _release(self) -> None:
        self.released += 1


def crops(count: int, seed: int = 0) -> dict[str, NDArray[Any]]:
    return {"pixels": np.random.default_rng(seed).integers(0, 256, (count, 4, 2, 3), np.uint8)}


def captions(count: int, length: int, seed: int = 0) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(seed)
    real = rng.integers(1, length + 1, count)
    return {
        "input_ids": rng.integers(1, 100, (count, length), np.int32),
        "attention_mask": (np.arange(length) < real[:, None]).astype(np.int32),
    }


def test_buckets_are_powers_of_two_between_the_ends() -> None:
    assert batch_buckets(1, 32) == (1, 2, 4, 8, 16, 32)
    assert batch_buckets(1, 24) == (1, 2, 4, 8, 16, 24)
    assert batch_buckets(3, 10) == (3, 4, 8, 10)
    assert batch_buckets(4, 4) == (4,)
    assert [bucket_for(size, (1, 4, 10)) for size in (1, 2, 4, 5, 10)] == [1, 4, 4, 10, 10]
    with pytest.raises(FeedError, match="at most 10, got 11"):
        bucket_for(11, (1, 4, 10))


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 20), min_size=1, max_size=8),
    batch=st.tuples(st.integers(1, 3), st.integers(3, 9)),
    graphs=st.booleans(),
)
def test_any_sequence_of_batches_gives_each_items_own_numbers(
    sizes: list[int], batch: tuple[int, int], graphs: bool
) -> None:
    """Padding, cutting, buckets, slots, graphs and late work together, one call each and as a stream."""
    setup = Setup(batch=batch, graphs=graphs)
    feeds = [crops(size, seed) for seed, size in enumerate(sizes)]
    for given_feeds in feeds:
        result = setup.runner.run(given_feeds)["image_embedding"]
        np.testing.assert_array_equal(result, embed(given_feeds))
    streamed = list(setup.runner.run_stream(iter(feeds)))
    assert len(streamed) == len(feeds)
    for given_feeds, outputs in zip(feeds, streamed, strict=True):
        np.testing.assert_array_equal(outputs["image_embedding"], embed(given_feeds))
    setup.runner.close()
    assert (setup.memory.held, setup.memory.closed, setup.released) == (0, True, 1)


@pytest.mark.parametrize("graphs", [True, False])
def test_a_timed_run_tells_what_the_device_took(graphs: bool) -> None:
    """In the fake each copy and each run of the engine takes a millisecond, and the host none."""
    images = Setup(batch=(1, 8), graphs=graphs)
    for _ in range(3):  # plain, captured, launched
        outputs, times = images.runner.run_timed(crops(5))
        np.testing.assert_array_equal(outputs["image_embedding"], embed(crops(5)))
        assert times == DeviceTimes(1.0, 1.0, 1.0)
    outputs, times = images.runner.run_timed(crops(20))  # in three pieces
    np.testing.assert_array_equal(outputs["image_embedding"], embed(crops(20)))
    assert times == DeviceTimes(3.0, 3.0, 3.0)
    texts = Setup(lengths=(6,), graphs=graphs)
    assert texts.runner.run_timed(captions(2, 6))[1] == DeviceTimes(2.0, 1.0, 1.0)  # two inputs
    for setup in (images, texts):
        setup.runner.close()
        assert setup.memory.held == 0
        with pytest.raises(FeedError, match="closed"):
            setup.runner.run_timed(crops(1))


def test_inputs_are_not_changed_and_outputs_stay_valid() -> None:
    setup = Setup()
    first, before = crops(3, 1), crops(3, 1)["pixels"]
    kept = setup.runner.run(first)["image_embedding"]
    setup.runner.run(crops(3, 2))
    np.testing.assert_array_equal(first["pixels"], before)
    np.testing.assert_array_equal(kept, embed(crops(3, 1)))
    setup.runner.close()
    np.testing.assert_array_equal(kept, embed(crops(3, 1)))


def test_an_input_changed_after_the_call_does_not_reach_the_result() -> None:
    setup = Setup()
    feeds = [crops(2, seed) for seed in range(4)]
    wanted = [embed(entry) for entry in feeds]

    def spoiled() -> Any:
        for entry in feeds:
            yield entry
            entry["pixels"][:] = 0

    for outputs, expected in zip(setup.runner.run_stream(spoiled()), wanted, strict=True):
        np.testing.assert_array_equal(outputs["image_embedding"], expected)


def test_a_batch_is_filled_up_to_its_bucket_with_a_real_item() -> None:
    setup = Setup(lengths=(6, 10))
    feeds = captions(5, 6)
    result = setup.runner.run(feeds)["text_embedding"]
    assert result.shape == (5, DIM)
    np.testing.assert_array_equal(result, embed(feeds))  # embed refuses a row of padding alone
    assert setup.engines[6].batches == [8]


def test_captions_go_to_the_shortest_engine_that_holds_them() -> None:
    setup = Setup(lengths=(6, 10))
    for length, expected in ((4, 6), (6, 6), (7, 10), (10, 10)):
        feeds = captions(2, length, length)
        weights_of = {name: np.pad(a, ((0, 0), (0, expected - length))) for name, a in feeds.items()}
        np.testing.assert_array_equal(setup.runner.run(feeds)["text_embedding"], embed(weights_of))
    assert [len(setup.engines[length].batches) for length in (6, 10)] == [2, 2]
    with pytest.raises(FeedError, match="captions of at most 10 tokens, got 11") as caught:
        setup.runner.run(captions(1, 11))
    assert "--text-lengths" in caught.value.hint


def test_engines_are_loaded_when_they_are_first_needed() -> None:
    setup = Setup(lengths=(6, 10))
    setup.runner.run(captions(1, 5))
    assert list(setup.engines) == [6]


def test_the_second_run_of_a_shape_is_captured_and_the_next_ones_launch_it() -> None:
    setup = Setup()
    for _ in range(5):
        np.testing.assert_array_equal(setup.runner.run(crops(2))["image_embedding"], embed(crops(2)))
    engine = setup.engines[None]
    # One plain run, then one that was recorded and launched, then launches alone.
    assert (engine.executed, setup.memory.captures, setup.memory.launches) == (2, 1, 4)
    assert setup.runner.description == "fake, 1 CUDA graphs"
    setup.runner.run(crops(8))
    setup.runner.run(crops(8))
    assert setup.runner.description == "fake, 2 CUDA graphs"
    assert len(engine.contexts) == 2, "a captured graph must not see its context's shapes change"


def test_shapes_are_set_once_per_context() -> None:
    setup = Setup(graphs=False)
    for _ in range(4):
        setup.runner.run(crops(3))
    (context,) = setup.engines[None].contexts
    assert context.calls == ["shape", "execute", "execute", "execute", "execute"]
    assert setup.memory.captures == 0
    assert setup.runner.description == "fake, 0 CUDA graphs"


def test_a_run_that_cannot_be_captured_runs_plainly_and_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    setup = Setup()
    tries = []

    def refuse(stream: int, enqueue: Callable[[], bool]) -> None:
        del enqueue
        tries.append(stream)

    monkeypatch.setattr(setup.memory, "capture", refuse)
    for seed in range(4):
        np.testing.assert_array_equal(setup.runner.run(crops(2, seed))["image_embedding"], embed(crops(2, seed)))
    assert (len(tries), setup.memory.launches) == (1, 0)


@pytest.mark.parametrize("graphs", [True, False])
def test_tensorrt_for_rtx_captures_its_runs_itself(tmp_path: Path, graphs: bool) -> None:
    setup = Setup(graphs=graphs)
    engine = FakeEngine(setup.memory, setup.library.recorder)
    cache = RuntimeCache(setup.library, tmp_path / "image.cache", cuda_graphs=graphs)
    vars(cache)["context"] = lambda engine: engine.create_execution_context("USER_MANAGED")
    session = EngineSession(setup.library, engine, setup.memory, IMAGE, 0, cache)
    for _ in range(4):
        outputs = session.collect(session.submit(crops(2)))
        np.testing.assert_array_equal(outputs["image_embedding"], embed(crops(2)))
    assert (engine.executed, setup.memory.captures, setup.memory.launches) == (4, 0, 0)
    session.close()


def test_one_batch_travels_while_another_computes() -> None:
    setup = Setup()
    engine = FakeEngine(setup.memory, setup.library.recorder)
    session = EngineSession(setup.library, engine, setup.memory, setup.specs)
    first = session.submit(crops(8, 1))
    second = session.submit(crops(4, 2))
    assert first.stream != second.stream
    assert engine.batches == [], "nothing was waited for yet"
    # They share scratch memory: whoever waits for the second alone has the first computed before it.
    setup.memory.synchronize(second.stream)
    assert engine.batches == [8, 4]
    np.testing.assert_array_equal(session.collect(first)["image_embedding"], embed(crops(8, 1)))
    np.testing.assert_array_equal(session.collect(second)["image_embedding"], embed(crops(4, 2)))
    third = session.submit(crops(1, 3))
    assert third in (first, second)
    session.collect(third)
    session.close()
    assert setup.memory.held == 0


@settings(max_examples=20, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=6), batch=st.tuples(st.integers(1, 3), st.integers(3, 9))
)
def test_staged_arrays_give_the_same_as_others(sizes: list[int], batch: tuple[int, int]) -> None:
    """Filled up in their place, cut where they are too many, and filled again once their outputs have come."""
    setup = Setup(batch=batch)
    slots = [setup.runner.stage(12)["pixels"] for _ in range(3)]
    feeds = [crops(size, seed)["pixels"] for seed, size in enumerate(sizes)]

    def staged() -> Iterator[Feeds]:
        for number, pixels in enumerate(feeds):
            slot = slots[number % 3]
            slot[: len(pixels)] = pixels
            yield {"pixels": slot[: len(pixels)]}

    for pixels, outputs in zip(feeds, setup.runner.run_stream(staged()), strict=True):
        np.testing.assert_array_equal(outputs["image_embedding"], embed({"pixels": pixels}))
    setup.runner.close()
    assert setup.memory.held == 0


def test_staged_pixels_are_not_copied_on_the_host() -> None:
    setup = Setup()
    staged = [setup.runner.stage(8) for _ in range(2)]
    before = setup.memory.pinned_bytes
    list(setup.runner.run_stream(staged))
    outputs = 2 * 8 * DIM * 4
    assert setup.memory.pinned_bytes == before + outputs, "the device reads the staged arrays themselves"
    list(setup.runner.run_stream([{"pixels": staged[0]["pixels"][::-1]}]))  # not as the device wants it: copied
    assert setup.memory.pinned_bytes == before + outputs + 8 * 4 * 2 * 3


def test_a_device_that_fails_in_a_stream_is_told_once_and_what_is_under_way_is_given_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    setup = Setup()
    list(setup.runner.run_stream([crops(2)] * 3))
    waits = []

    def broken(event: Any) -> None:
        waits.append(event)
        raise BackendError(f"CUDA could not wait: failure {len(waits)}.")

    with monkeypatch.context() as patched:
        patched.setattr(setup.memory, "wait_host", broken)
        with pytest.raises(BackendError, match="failure 1"):
            list(setup.runner.run_stream([crops(2)] * 5))
    assert len(waits) == 2, "the other batch was waited for, too"
    np.testing.assert_array_equal(setup.runner.run(crops(3))["image_embedding"], embed(crops(3)))
    setup.runner.close()
    assert setup.memory.held == 0


@pytest.mark.parametrize("lengths", [(), (6, 10)])
def test_a_warm_runner_loads_and_captures_nothing_more(lengths: tuple[int, ...]) -> None:
    setup = Setup(lengths=lengths)
    setup.runner.warm(5, 16)
    captures, contexts = setup.memory.captures, [len(engine.contexts) for engine in setup.engines.values()]
    assert set(setup.engines) == set(lengths or (None,))
    assert contexts == [2 * 4] * len(setup.engines), "buckets of 1, 2, 4 and 8, in two slots"
    assert captures == 2 * 4 * len(setup.engines)
    executed = [engine.executed for engine in setup.engines.values()]
    feeds = [captions(size, 6, size) if lengths else crops(size, size) for size in (5, 1, 4, 2, 3, 5)]
    for given_feeds, outputs in zip(feeds, setup.runner.run_stream(feeds), strict=True):
        np.testing.assert_array_equal(next(iter(outputs.values())), embed(given_feeds))
    assert setup.memory.captures == captures
    assert [engine.executed for engine in setup.engines.values()] == executed, "launched graphs alone"


def test_a_gallery_is_embedded_with_two_batches_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "embed", unit_embed)
    for number in range(43):
        (tmp_path / f"{number:02}.ppm").write_bytes(picture(number))
    (tmp_path / "17.ppm").write_bytes(b"no picture")
    setup = Setup(batch=(1, 4))
    with Encoder(FACTS, cast(Tokenizer, None), lambda: setup.runner, lambda: setup.runner, batch_size=4) as encoder:
        report = embed_gallery(encoder, read_sources([str(tmp_path)]), tmp_path / "g", EmbedOptions(batch_size=4))
        assert (report.embedded, report.rejected) == (42, 1)
        assert setup.memory.most_busy == 2, "one batch after the other would keep one stream busy"
        # Two batches under way and one that is filled, in pinned memory; and two slots' outputs. Nothing else.
        assert setup.memory.pinned_bytes == 3 * 4 * (4 * 2 * 3) + 2 * 4 * (DIM * 4)
        assert setup.memory.copied_to_device == sum(setup.engines[None].batches) * 4 * 2 * 3
    assert setup.memory.held == 0
    with Gallery.open(tmp_path / "g") as gallery:
        found = {record.path.name: gallery.vectors[record.row] for record in gallery.records()}
    assert list(found) == [f"{number:02}.ppm" for number in range(43) if number != 17]
    for number in (0, 3, 4, 16, 18, 42):
        alone = unit_embed({"pixels": pixels_of(number)[None]})[0]
        np.testing.assert_array_equal(found[f"{number:02}.ppm"], alone.astype(np.float16))


@pytest.mark.parametrize("kind", [ImageError, BackendError, KeyboardInterrupt])
def test_pictures_that_stop_in_the_middle_leave_an_encoder_that_works(
    kind: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "embed", unit_embed)
    setup = Setup(batch=(1, 4))
    with Encoder(FACTS, cast(Tokenizer, None), lambda: setup.runner, lambda: setup.runner, batch_size=4) as encoder:
        good = [picture(number) for number in range(30)]
        expected = encoder.encode_images(good)
        held = setup.memory.held
        with monkeypatch.context() as patched:
            if kind is not ImageError:

                def stop(_: Any) -> None:
                    raise kind("stopped")

                patched.setattr(setup.memory, "wait_host", stop)
            with pytest.raises(kind):
                encoder.encode_images([*good[:17], b"no picture", *good])
        np.testing.assert_array_equal(encoder.encode_images(good), expected)
        assert setup.memory.held == held, "the same staged arrays are used again"
        assert setup.memory.current == 0
    assert setup.memory.held == 0


def test_scratch_memory_is_one_block_for_all_contexts() -> None:
    setup = Setup()
    list(setup.runner.run_stream([crops(size) for size in (1, 8, 3, 5)]))
    places = {context.scratch for context in setup.engines[None].contexts}
    assert len(places) == 1
    assert len(setup.engines[None].contexts) >= 3


def test_a_run_that_fails_says_why_and_the_next_one_works() -> None:
    setup = Setup()
    setup.runner.run(crops(2))
    setup.engines[None].failing = True
    with pytest.raises(BackendError, match="could not run the engine: the kernel is on strike"):
        setup.runner.run(crops(3))
    setup.engines[None].failing = False
    np.testing.assert_array_equal(setup.runner.run(crops(3))["image_embedding"], embed(crops(3)))
    setup.runner.close()
    assert setup.memory.held == 0


def test_a_stream_given_up_leaves_the_runner_usable() -> None:
    setup = Setup()
    for _ in range(3):
        stream = setup.runner.run_stream(crops(2, seed) for seed in range(6))
        next(stream)
        stream.close()
    with pytest.raises(FeedError, match="want pixels"):
        list(setup.runner.run_stream([crops(1), {"pixels": np.zeros((1, 4, 2, 3), np.float32)}]))
    np.testing.assert_array_equal(setup.runner.run(crops(9))["image_embedding"], embed(crops(9)))
    setup.runner.close()
    assert setup.memory.held == 0


@pytest.mark.parametrize("end", [next, lambda stream: stream.close()])
def test_a_stream_of_a_runner_that_was_closed_touches_nothing(end: Callable[[Any], object]) -> None:
    setup = Setup()
    stream = setup.runner.run_stream(crops(2, seed) for seed in range(6))
    next(stream)
    setup.runner.close()
    assert setup.memory.held == 0
    with pytest.raises(FeedError, match="the runner is closed") if end is next else contextlib.nullcontext():
        end(stream)
    assert setup.memory.current == 0


def test_threads_wait_for_each_other() -> None:
    setup = Setup()
    wrong: list[int] = []

    def work(seed: int) -> None:
        for round_ in range(10):
            feeds = crops(1 + (seed + round_) % 9, 100 * seed + round_)
            if not np.array_equal(setup.runner.run(feeds)["image_embedding"], embed(feeds)):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_closed_runner_refuses_and_closes_again() -> None:
    setup = Setup()
    setup.runner.run(crops(1))
    setup.runner.close()
    setup.runner.close()
    assert setup.released == 1
    with pytest.raises(FeedError, match="closed"):
        setup.runner.run(crops(1))


def test_every_way_out_leaves_the_thread_without_the_device() -> None:
    setup = Setup()
    setup.runner.run(crops(1))
    assert setup.memory.current == 0
    stream = setup.runner.run_stream([crops(1), crops(2), crops(3)])
    next(stream)
    assert setup.memory.current == 1
    stream.close()
    with pytest.raises(FeedError):
        setup.runner.run({})
    setup.runner.run_timed(crops(2))
    setup.runner.close()
    assert setup.memory.current == 0


def test_a_device_that_failed_is_let_go_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    setup = Setup(lengths=(6, 10))
    setup.runner.run(captions(1, 5))
    setup.runner.run(captions(1, 9))
    closed = []

    def broken(stream: int) -> None:
        closed.append(stream)
        raise BackendError("CUDA could not run: an illegal memory access.")

    monkeypatch.setattr(setup.memory, "synchronize", broken)
    setup.engines[6].failing = True
    with pytest.raises(BackendError, match="the kernel is on strike"):  # and not what came of waiting after it
        setup.runner.run(captions(1, 5))
    closed.clear()
    with pytest.raises(BackendError, match="illegal memory access"):
        setup.runner.close()
    assert (len(closed), setup.released, setup.memory.closed) == (2, 1, True)
    with pytest.raises(FeedError, match="closed"):
        setup.runner.run(captions(1, 5))


def test_too_little_memory_says_so() -> None:
    setup = Setup()
    setup.memory._capacity = 300
    with pytest.raises(BackendError, match="out of memory") as caught:
        setup.runner.run(crops(8))
    assert "batch" in caught.value.hint
    setup.runner.close()


def test_an_engine_of_another_model_or_without_the_profile_is_refused() -> None:
    memory, library = FakeMemory(), fake_library()
    other = (IMAGE[0], (TensorSpec("text_embedding", np.dtype(np.float32), ("batch", DIM)),))
    with pytest.raises(BackendError, match="text_embedding"):
        EngineSession(library, FakeEngine(memory, library.recorder), memory, other)
    with pytest.raises(BackendError, match=r"1 profiles; .* a profile 1"):
        EngineSession(library, FakeEngine(memory, library.recorder), memory, IMAGE, profile=1)
    larger = ((TensorSpec("pixels", np.dtype(np.uint8), ("batch", 8, 2, 3)),), IMAGE[1])
    with pytest.raises(BackendError, match=r"shapes \[1, 4, 2, 3\] to \[8, 4, 2, 3\]"):
        EngineSession(library, FakeEngine(memory, library.recorder), memory, larger)
    assert memory.held == 0


class FakeProfiles(FakeEngine):
    """A text engine with a profile for each of two lengths."""

    num_optimization_profiles = 2
    lengths = (6, 10)

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        assert name in self.profile
        length = self.lengths[profile]
        return [(1, length), (8, length), (8, length)]

    def create_execution_context(self, strategy: str) -> FakeContext:
        assert strategy == "USER_MANAGED"
        self.contexts.append(FakeProfileContext(self))
        return self.contexts[-1]


class FakeProfileContext(FakeContext):
    """Takes shapes of its profile alone, which is the first one until another is chosen."""

    number = 0

    def set_optimization_profile_async(self, number: int, stream: int) -> bool:
        assert stream
        assert not self.shapes, "the profile comes before the shapes"
        self.number = number
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = tuple(shape)
        return shape[1] == FakeProfiles.lengths[self.number]


def test_the_lengths_of_one_engine_are_its_profiles() -> None:
    memory, library = FakeMemory(), fake_library()
    engine = FakeProfiles(memory, library.recorder, TEXT, length=6)

    def loader(profile: int) -> Callable[[], EngineSession]:
        return lambda: EngineSession(library, engine, memory, TEXT, profile)

    runner = TensorRTRunner(TEXT, {length: loader(number) for number, length in enumerate(engine.lengths)}, memory)
    for length, filled in ((4, 6), (10, 10), (6, 6), (9, 10)):
        feeds = captions(2, length, length)
        wanted = embed({name: np.pad(array, ((0, 0), (0, filled - length))) for name, array in feeds.items()})
        np.testing.assert_array_equal(runner.run(feeds)["text_embedding"], wanted)
    chosen = [context.number for context in engine.contexts if isinstance(context, FakeProfileContext)]
    assert chosen == [0, 1]
    runner.close()
    assert memory.held == 0


def test_a_context_that_refuses_a_shape_or_has_another_output_is_an_error() -> None:
    setup = Setup()
    engine = FakeEngine(setup.memory, setup.library.recorder)
    session = EngineSession(setup.library, engine, setup.memory, IMAGE)
    engine.profile = {"pixels": ((1, 4, 2, 3), (1, 4, 2, 3))}
    with pytest.raises(BackendError, match=r"could not set pixels to \[8, 4, 2, 3\]"):
        session.submit(crops(8))
    session.close()


def test_a_context_that_cannot_infer_its_shapes_says_what_tensorrt_said(monkeypatch: pytest.MonkeyPatch) -> None:
    setup = Setup()

    def refuse(context: FakeContext) -> list[str]:
        context.engine.recorder.report_error(None, "reshape would change volume 30720 to 15360")
        raise RuntimeError("infer_shapes error code: -1")  # as the bindings of 10.3 to 11.4 do

    monkeypatch.setattr(FakeContext, "infer_shapes", refuse)
    with pytest.raises(BackendError, match="could not infer shapes: reshape would change volume"):
        setup.runner.run(crops(2))


def test_the_fake_memory_is_late() -> None:
    """What the other tests lean on: nothing is done before it is waited for."""
    memory = FakeMemory()
    stream, address = memory.make_stream(), memory.allocate(4)
    sent, got = memory.pinned(4), memory.pinned(4)
    sent[:] = (1, 2, 3, 4)
    memory.copy_to_device(address, sent, stream)
    memory.copy_to_host(got, address, stream)
    assert got.tolist() == [0, 0, 0, 0]
    sent[0] = 9
    memory.synchronize(stream)
    assert got.tolist() == [9, 2, 3, 4]

"""Batches, order, laziness and the checks of what comes out, around runners whose answers are known."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from tbps_infer.decoding import MOST_DECODERS, decode_threads
from tbps_infer.encoder import _RUN_TOKENS, Encoder, _with_least_filling
from tbps_infer.errors import BackendError, FeedError, ImageError, UsageError, VerificationError
from tbps_infer.images import load_crop, to_crop
from tbps_infer.runners import Feeds, TensorSpec
from tbps_infer.runners.fake import FakeRunner, fake_facts
from tbps_infer.text import Tokenizer, pad_ids
from tbps_infer.tokenizer_files import train_wordpiece

FACTS = fake_facts()
WORDS = ("a", "woman", "man", "red", "coat", "and", "black", "trousers", "grey", "backpack", "walks", "hat")


class Spy(FakeRunner):
    """A fake that remembers what it was fed."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.feeds: list[dict[str, NDArray[Any]]] = []

    def opened(self) -> Spy:
        return self

    def run(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        self.feeds.append(dict(feeds))
        return super().run(feeds)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    file = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    train_wordpiece(WORDS, 200).save(str(file))
    return Tokenizer(file, caption_rule=FACTS.caption_rule, max_length=FACTS.max_length, pad_id=FACTS.pad_id)


def encoder_of(tokenizer: Tokenizer, batch_size: int = 4) -> tuple[Encoder, Spy, Spy]:
    image, text = Spy(FACTS, "image"), Spy(FACTS, "text")
    return Encoder(FACTS, tokenizer, lambda: image, lambda: text, batch_size=batch_size), image, text


def crops_of(count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(count).integers(0, 256, (count, 12, 4, 3), dtype=np.uint8)


def captions_of(count: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(1, 13))) for _ in range(count)]


def one_by_one(tokenizer: Tokenizer, captions: Sequence[str]) -> NDArray[np.float32]:
    runner = FakeRunner(FACTS, "text")
    rows = [pad_ids([row], 0) for row in tokenizer.encode(captions)]
    return np.concatenate([runner.run({"input_ids": i, "attention_mask": m})["text_embedding"] for i, m in rows])


@pytest.mark.parametrize(("count", "sizes"), [(0, []), (1, [1]), (4, [4]), (9, [4, 4, 1])])
def test_crops_go_in_batches(tokenizer: Tokenizer, count: int, sizes: list[int]) -> None:
    encoder, image, text = encoder_of(tokenizer)
    crops = crops_of(count)
    vectors = encoder.encode_crops(crops)
    assert vectors.shape == (count, 36) and vectors.dtype == np.float32
    assert image.batch_sizes == sizes and text.batch_sizes == []
    alone = FakeRunner(FACTS, "image")
    for index in range(count):
        expected = alone.run({"pixels": crops[index : index + 1]})["image_embedding"][0]
        np.testing.assert_array_equal(vectors[index], expected)


def test_crops_of_another_size_are_refused(tokenizer: Tokenizer) -> None:
    encoder, _, _ = encoder_of(tokenizer)
    with pytest.raises(FeedError, match=r"want pixels: uint8\[batch, 12, 4, 3\]"):
        encoder.encode_crops(np.zeros((2, 4, 12, 3), np.uint8))


@settings(max_examples=50, deadline=None)
@given(count=st.integers(0, 40), batch_size=st.integers(1, 50), seed=st.integers(0, 99))
def test_texts_come_back_in_order_for_any_batch_size(
    tokenizer: Tokenizer, count: int, batch_size: int, seed: int
) -> None:
    encoder, _, text = encoder_of(tokenizer, batch_size)
    captions = captions_of(count, seed)
    vectors = encoder.encode_texts(captions)
    assert vectors.shape == (count, 36)
    if count:
        np.testing.assert_array_equal(vectors, one_by_one(tokenizer, captions))
    assert sum(text.batch_sizes) == count and max(text.batch_sizes, default=0) <= batch_size


def test_each_batch_is_filled_to_its_own_longest(tokenizer: Tokenizer) -> None:
    encoder, _, text = encoder_of(tokenizer)
    captions = captions_of(30)
    encoder.encode_texts(captions)
    lengths = sorted(len(row) for row in tokenizer.encode(captions))
    widths = [feeds["input_ids"].shape[1] for feeds in text.feeds]
    assert widths == [max(lengths[start : start + 4]) for start in range(0, 30, 4)]
    assert max(widths) <= FACTS.max_length and min(widths) < max(widths)
    for feeds in text.feeds:
        assert feeds["attention_mask"].sum(axis=1).min() >= 3  # never a row of zeros


def test_an_empty_caption_is_named_by_its_number(tokenizer: Tokenizer) -> None:
    encoder, _, text = encoder_of(tokenizer, batch_size=2)
    captions = captions_of(40)
    captions[37] = "  "
    with pytest.raises(UsageError, match="Caption 38 has no words"):
        encoder.encode_texts(captions)
    assert text.batch_sizes == []


def test_images_of_every_source_equal_their_crops(tokenizer: Tokenizer, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sources: list[Path | bytes | Image.Image] = []
    crops = []
    for index in range(23):
        picture = Image.fromarray(rng.integers(0, 256, (20 + index, 9, 3), dtype=np.uint8))
        file = tmp_path / f"{index}.png"
        picture.save(file)
        sources.append((file, file.read_bytes(), picture.convert("RGBA"))[index % 3])
        crops.append(to_crop(picture, FACTS.preprocessing))
        np.testing.assert_array_equal(load_crop(file, FACTS.preprocessing), crops[-1])
    encoder, image, _ = encoder_of(tokenizer)
    vectors = encoder.encode_images(sources)
    np.testing.assert_array_equal(vectors, encoder.encode_crops(np.stack(crops)))
    assert image.batch_sizes[:6] == [4, 4, 4, 4, 4, 3]
    assert encoder.encode_images([]).shape == (0, 36)


def test_decoding_keeps_a_bounded_number_ahead(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many pictures there are, a few batches of crops are in memory."""
    encoder, image, _ = encoder_of(tokenizer)
    buffer = io.BytesIO()
    Image.new("RGB", (4, 12), "red").save(buffer, "PNG")
    decoded = 0
    ahead = []

    def crop(_: bytes) -> NDArray[np.uint8]:
        nonlocal decoded
        decoded += 1
        return np.full((12, 4, 3), decoded % 256, np.uint8)

    def run(feeds: Feeds) -> dict[str, NDArray[Any]]:
        ahead.append(decoded - sum(image.batch_sizes))
        return FakeRunner.run(image, feeds)

    monkeypatch.setattr(encoder, "_crop", crop)
    monkeypatch.setattr(image, "run", run)
    encoder.encode_images([buffer.getvalue()] * 100)
    assert max(ahead) <= 3 * encoder.batch_size


def test_a_picture_that_cannot_be_decoded_is_named(tokenizer: Tokenizer, tmp_path: Path) -> None:
    files = []
    for index in range(30):
        files.append(tmp_path / f"{index}.png")
        Image.new("RGB", (4, 12), (index, 0, 0)).save(files[-1])
    files[17].write_bytes(files[17].read_bytes()[:50])
    files[21].unlink()
    encoder, image, _ = encoder_of(tokenizer)
    with pytest.raises(ImageError, match=r"17\.png cannot be decoded"):
        encoder.encode_images(files)
    assert image.batch_sizes == [4, 4, 4, 4]


def test_a_branch_is_opened_at_its_first_use_and_only_once(tokenizer: Tokenizer) -> None:
    opened: list[str] = []
    runners = {"image": FakeRunner(FACTS, "image"), "text": FakeRunner(FACTS, "text")}

    def open_branch(branch: str) -> FakeRunner:
        opened.append(branch)
        return runners[branch]

    encoder = Encoder(FACTS, tokenizer, lambda: open_branch("image"), lambda: open_branch("text"))
    with encoder:
        assert opened == []
        encoder.encode_texts(["a man"])
        encoder.encode_texts(["a woman"])
        assert opened == ["text"] and encoder.runner("text") is runners["text"]
    assert runners["text"].closed and not runners["image"].closed
    encoder.close()
    with pytest.raises(FeedError, match="closed"):
        encoder.encode_texts(["a man"])
    with pytest.raises(FeedError, match="closed"):
        encoder.encode_crops(crops_of(1))
    assert opened == ["text"]


def test_both_branches_are_closed_when_one_fails_to(tokenizer: Tokenizer) -> None:
    class Stubborn(FakeRunner):
        def close(self) -> None:
            super().close()
            raise BackendError(f"the {self._branch} branch does not close")

    runners = Stubborn(FACTS, "image"), Stubborn(FACTS, "text")
    encoder = Encoder(FACTS, tokenizer, lambda: runners[0], lambda: runners[1])
    encoder.warm()
    with pytest.raises(BackendError, match="does not close"):
        encoder.close()
    assert [runner.closed for runner in runners] == [True, True]


def test_warming_runs_both_branches_and_says_so(tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture) -> None:
    encoder, image, text = encoder_of(tokenizer)
    with caplog.at_level("INFO", "tbps_infer.encoder"):
        encoder.warm()
    assert (image.batch_sizes, text.batch_sizes) == ([1], [1])
    assert text.feeds[0]["input_ids"].shape == (1, FACTS.max_length)
    assert [record.getMessage().rsplit(",", 1)[0] for record in caplog.records] == [
        "warmed image: fake image branch",
        "warmed text: fake text branch",
    ]


def test_a_stream_opens_the_branch_for_its_first_crop_and_uses_its_arrays_again(tokenizer: Tokenizer) -> None:
    encoder, image, _ = encoder_of(tokenizer)
    assert list(encoder.encode_stream(iter([]))) == [] and not encoder._runners
    crops = crops_of(23)
    for _ in range(2):
        parts = list(encoder.encode_stream(iter(crops)))
        assert [len(part) for part in parts] == [4, 4, 4, 4, 4, 3]
        np.testing.assert_array_equal(np.concatenate(parts), encoder.encode_crops(crops))
    assert len(encoder._staged[4]) == 1, "this runner takes a batch when the one before it is done"
    streamed = [feeds["pixels"] for feeds in image.feeds if feeds["pixels"].base is not crops]
    assert len({array.ctypes.data for array in streamed}) == 1


@pytest.mark.parametrize("crop", [np.zeros((1, 4, 3), np.uint8), np.zeros((12, 4, 3), np.float32)])
def test_a_crop_that_does_not_fit_is_refused_in_a_stream(tokenizer: Tokenizer, crop: NDArray[Any]) -> None:
    encoder, _, _ = encoder_of(tokenizer)
    with pytest.raises(FeedError, match=r"want crops of uint8\[12, 4, 3\], got"):
        list(encoder.encode_stream([*crops_of(2), crop]))


def test_streams_beside_each_other_have_arrays_of_their_own(tokenizer: Tokenizer) -> None:
    encoder, _, _ = encoder_of(tokenizer)
    crops = crops_of(9)
    expected = encoder.encode_crops(crops)
    outer = encoder.encode_stream(crops)
    parts = [next(outer)]
    np.testing.assert_array_equal(np.concatenate(list(encoder.encode_stream(crops[::-1]))), expected[::-1])
    np.testing.assert_array_equal(np.concatenate([*parts, *outer]), expected)


def test_a_stream_keeps_no_more_than_its_arrays_and_ends_with_the_encoder(tokenizer: Tokenizer) -> None:
    encoder, _, _ = encoder_of(tokenizer)
    crops = crops_of(12)
    outer = encoder.encode_stream(crops)
    next(outer)
    for size in (0, -2):
        with pytest.raises(UsageError, match=f"The batch size is {size}"):
            next(encoder.encode_stream(crops, size))
    for _ in range(2):
        list(encoder.encode_stream(crops))
    outer.close()
    assert len(encoder._staged[4]) == 2
    last = encoder.encode_stream(crops)
    next(last)
    encoder.close()
    with pytest.raises(FeedError, match="is closed"):
        next(last)


def test_decoders_follow_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, threads in ((1, 1), (6, 6), (16, 16), (96, MOST_DECODERS)):
        monkeypatch.setattr("tbps_infer.decoding.usable_cores", lambda cores=cores: cores)
        assert decode_threads() == threads


def test_a_failing_backend_is_passed_on(tokenizer: Tokenizer) -> None:
    runner = FakeRunner(FACTS, "image", error=BackendError("out of memory"), fail_after=1)
    encoder = Encoder(FACTS, tokenizer, lambda: runner, lambda: runner, batch_size=2)
    with pytest.raises(BackendError, match="out of memory"):
        encoder.encode_crops(crops_of(5))
    assert runner.batch_sizes == [2]


class Broken(FakeRunner):
    """A fake whose answers are changed on the way out."""

    def __init__(self, change: str) -> None:
        super().__init__(FACTS, "image")
        self.change = change
        if change == "name":
            self.outputs = (TensorSpec("embedding", np.dtype(np.float32), ("batch", 36)),)

    def run(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        vectors = super().run(feeds)["image_embedding"]
        if self.change == "nan":
            vectors[1, 5] = np.nan
        elif self.change == "inf":
            vectors[:, 0] = np.inf
        elif self.change == "scale":
            vectors[2, 8:20] *= 1.01
        elif self.change == "zero":
            vectors[0, 20:28] = 0
        elif self.change == "shape":
            vectors = vectors[:, :-1]
        elif self.change == "rows":
            vectors = vectors[:-1]
        elif self.change == "dtype":
            vectors = vectors.astype(np.float16)
        return {"image_embedding": vectors}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("nan", r"image branch \(fake image branch\) gave NaN or infinite numbers for 1 of 3 items"),
        ("inf", "gave NaN or infinite numbers for 3 of 3 items"),
        ("scale", "gave a squared norm of 1.02 in coarse, want 1"),
        ("zero", r"gave a squared norm of 0 in fine\.0, want 0\.5"),
        ("shape", r"gave float32\[3, 35\], want float32\[3, 36\]"),
        ("rows", r"gave float32\[2, 36\], want float32\[3, 36\]"),
        ("dtype", r"gave float16\[3, 36\], want float32\[3, 36\]"),
        ("name", r"gives \['embedding'\], want \['pixels'\] and \['image_embedding'\]"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_what_is_no_embedding_is_refused(tokenizer: Tokenizer, change: str, sentence: str) -> None:
    encoder = Encoder(FACTS, tokenizer, lambda: Broken(change), lambda: Broken(change))
    with pytest.raises(VerificationError, match=sentence):
        encoder.encode_crops(crops_of(3))


def test_a_batch_size_below_one_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(UsageError, match="batch size is 0"):
        encoder_of(tokenizer, batch_size=0)


@pytest.mark.parametrize("captions", [None, 5, b"a man", {"a man": 1}])
def test_what_is_no_caption_is_named(tokenizer: Tokenizer, captions: Any) -> None:
    encoder, _, _ = encoder_of(tokenizer)
    with pytest.raises(UsageError, match=r"The captions are .*, want text"):
        encoder.encode_texts(captions)


def test_one_caption_is_not_its_letters(tokenizer: Tokenizer) -> None:
    encoder, _, text = encoder_of(tokenizer)
    alone = encoder.encode_texts("woman")
    assert alone.shape == (1, 36) and text.batch_sizes == [1]
    np.testing.assert_array_equal(alone, encoder.encode_texts(["woman"]))
    with pytest.raises(UsageError, match="Caption 2 is None, want text"):
        encoder.encode_texts(["woman", None])  # type: ignore[list-item]


def test_pictures_come_in_every_usual_form(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """A path as text, bytes, an open file, an array, a Pillow image: alone and in lists, all the same embedding."""
    encoder, _, _ = encoder_of(tokenizer)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 20, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    file = tmp_path / "a.png"
    image.save(file)
    forms: list[Any] = [str(file), file, file.read_bytes(), bytearray(file.read_bytes()), pixels, image]
    expected = encoder.encode_images([file])
    for form in (*forms, io.BytesIO(file.read_bytes())):
        np.testing.assert_array_equal(encoder.encode_images(form), expected)
    np.testing.assert_array_equal(encoder.encode_images(forms), expected.repeat(len(forms), axis=0))
    np.testing.assert_array_equal(encoder.encode_images(np.stack([pixels] * 3)), expected.repeat(3, axis=0))
    np.testing.assert_array_equal(encoder.encode_images(form for form in forms), expected.repeat(len(forms), axis=0))
    with file.open("rb") as stream:
        np.testing.assert_array_equal(encoder.encode_images([stream]), expected)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros((4, 3), np.uint8), r"uint8\[4, 3\] is no picture"),
        (np.zeros((4, 3, 3), np.float32), r"float32\[4, 3, 3\] is no picture"),
        ([np.zeros((4, 3, 4), np.uint8)], r"uint8\[4, 3, 4\] is no picture"),
        (7, "int is no picture"),
        ([None], "NoneType is no picture"),
        (".", "is a folder, want pictures"),
        ([Path()], "is a folder, want pictures"),
    ],
)
def test_what_is_no_picture_is_named(tokenizer: Tokenizer, source: Any, message: str) -> None:
    encoder, image, _ = encoder_of(tokenizer)
    with pytest.raises(UsageError, match=message):
        encoder.encode_images(source)
    assert image.batch_sizes == []


def test_an_encoder_says_what_it_is(tokenizer: Tokenizer) -> None:
    encoder, _, _ = encoder_of(tokenizer)
    assert "36 numbers; nothing opened yet" in repr(encoder)
    encoder.encode_texts("woman")
    assert FakeRunner(FACTS, "text").description in repr(encoder)
    encoder.close()
    assert "closed" in repr(encoder)


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(1, 80), max_size=9), most=st.integers(1, 5))
def test_captions_are_cut_so_that_the_least_is_computed(lengths: list[int], most: int) -> None:
    lengths = sorted(lengths)

    def cost(parts: Sequence[slice]) -> int:
        return sum(max(lengths[part]) * len(lengths[part]) + _RUN_TOKENS for part in parts)

    def cuts(start: int) -> Iterator[list[slice]]:
        if start == len(lengths):
            yield []
        for stop in range(start + 1, min(start + most, len(lengths)) + 1):
            for rest in cuts(stop):
                yield [slice(start, stop), *rest]

    found = _with_least_filling(lengths, most)
    assert [index for part in found for index in range(part.start, part.stop)] == list(range(len(lengths)))
    assert all(part.stop - part.start <= most for part in found)
    assert cost(found) == min(map(cost, cuts(0)))


def test_short_captions_are_not_filled_up_to_a_long_one(tokenizer: Tokenizer) -> None:
    long, short = "a woman red coat and black trousers grey backpack walks hat a man", "a man"
    captions = [short, long, short, "a woman", long, *[short] * 20]
    feeds, vectors = [], []
    for least in (False, True):
        image, text = Spy(FACTS, "image"), Spy(FACTS, "text")
        with Encoder(FACTS, tokenizer, image.opened, text.opened, least_filling=least) as encoder:
            vectors.append(encoder.encode_texts(captions))
        feeds.append([feed["input_ids"].shape for feed in text.feeds])
    np.testing.assert_array_equal(vectors[0], vectors[1])
    assert len(feeds[0]) == 1
    assert sum(rows * length for rows, length in feeds[1]) < sum(rows * length for rows, length in feeds[0])

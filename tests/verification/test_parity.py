"""Verification finds what is wrong and only that: each fault planted in a candidate, by itself."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tbps_infer.errors import BackendError, UsageError, VerificationError
from tbps_infer.export.options import ExportOptions
from tbps_infer.model_facts import Branch
from tbps_infer.runners.fake import FakeRunner, fake_facts
from tbps_infer.runners.protocol import Feeds, Runner, SerialRunner, TensorSpec
from tbps_infer.text import Tokenizer
from tbps_infer.tokenizer_files import train_wordpiece
from tbps_infer.verification.parity import Shapes, measure_parity
from tbps_infer.verification.parity_report import ParityReport
from tbps_infer.verification.samples import Samples, prepare_samples, synthetic_samples
from tbps_infer.verification.tolerances import ParityLimits

FACTS = fake_facts()
FP32 = ParityLimits()
SHAPES = Shapes(batch_sizes=(1, 3), lengths=(4, 16))
BRANCHES: tuple[Branch, ...] = ("image", "text")
Array = NDArray[np.float32]
Fault = Callable[[Feeds, Array], Array]


class Faulty(SerialRunner):
    """A fake runner whose embeddings are put through a function."""

    def __init__(self, branch: Branch, fault: Fault) -> None:
        self._runner, self._branch, self._fault = FakeRunner(FACTS, branch), branch, fault

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self._runner.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self._runner.outputs

    @property
    def description(self) -> str:
        return "faulty"

    def run(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        embedding = self._runner.run(feeds)[f"{self._branch}_embedding"].copy()
        return {f"{self._branch}_embedding": self._fault(feeds, embedding)}

    def close(self) -> None:
        self._runner.close()


@pytest.fixture(scope="module")
def samples() -> Samples:
    rng = np.random.default_rng(1)
    rows = tuple((2, *rng.integers(5, 90, size).tolist(), 3) for size in (1, 5, 9, 3, 14, 2))
    return Samples(rng.integers(0, 256, (11, 12, 4, 3), dtype=np.uint8), rows, pad_id=0)


def reference(branch: Branch) -> Callable[[Feeds], Array]:
    runner = FakeRunner(FACTS, branch)
    return lambda feeds: runner.run(feeds)[f"{branch}_embedding"]


def verify(
    samples: Samples, limits: ParityLimits = FP32, *, image: Runner | None = None, text: Runner | None = None
) -> ParityReport:
    candidate: dict[Branch, Runner] = {
        "image": image or FakeRunner(FACTS, "image"),
        "text": text or FakeRunner(FACTS, "text"),
    }
    references = {branch: reference(branch) for branch in BRANCHES}
    return measure_parity(references, candidate, FACTS.layout, samples, SHAPES, limits)


def test_an_equal_candidate_passes_with_perfect_numbers(samples: Samples) -> None:
    report = verify(samples)
    assert report.passed and report.failures == ()
    for branch in (report.image, report.text):
        assert branch.cosine_min == pytest.approx(1, abs=1e-12) == branch.cosine_mean
        assert branch.largest_difference == branch.batch_drift == 0 and branch.norm_error < 1e-6
    assert report.image.padding_drift is None and report.text.padding_drift == 0
    assert report.image.compared == 8 + 9 and report.text.compared == 2 * (8 + 9)
    assert (report.ranking.captions, report.ranking.pictures, report.ranking.top_k) == (6, 11, 5)
    assert report.ranking.overlap == 1 and report.ranking.largest_difference == 0
    assert json.loads(json.dumps(report.to_json(), allow_nan=False))["text"]["candidate"] == "fake text branch"


def noise(_feeds: Feeds, z: Array) -> Array:
    z += np.float32(1e-3) * np.sign(z)
    return z


def one_number(_feeds: Feeds, z: Array) -> Array:
    z[:, 7] += 5e-5
    return z


def longer(_feeds: Feeds, z: Array) -> Array:
    z *= np.float32(1 + 1e-4)
    return z


def swapped_parts(_feeds: Feeds, z: Array) -> Array:
    return np.concatenate([z[:, :20], z[:, 28:], z[:, 20:28]], axis=1)


def by_row(_feeds: Feeds, z: Array) -> Array:
    """Rows after the first come out a little different, as in NVIDIA/TensorRT#4813."""
    z[1:, 0] += 3e-5
    return z


def by_padding(feeds: Feeds, z: Array) -> Array:
    z[:, 0] += np.float32(3e-6) * (feeds["attention_mask"] == 0).sum(1)
    return z


def not_a_number(_feeds: Feeds, z: Array) -> Array:
    z[-1, 0] = np.nan
    return z


def nothing(_feeds: Feeds, z: Array) -> Array:
    z *= 0
    return z


def next_ones(_feeds: Feeds, z: Array) -> Array:
    return np.roll(z, 1, axis=0)


@pytest.mark.parametrize(
    ("fault", "branch", "said"),
    [
        (noise, "image", ["image embeddings' cosine", "image embeddings differ", "image embeddings have norms"]),
        (one_number, "text", ["text embeddings differ from the reference by up to 5"]),
        (longer, "image", ["image embeddings differ", "image embeddings have norms off by up to 0.0001"]),
        (
            swapped_parts,
            "text",
            ["text embeddings' cosine with the reference falls to", "differ", "first 5 pictures"],
        ),
        (
            by_row,
            "image",
            ["image embeddings differ", "image embeddings change with the batch they are in by up to 3"],
        ),
        (by_padding, "text", ["differ", "text embeddings change with their padding by up to 3.9"]),
        (not_a_number, "image", ["cosine .* falls to nan", "differ .* nan", "norms .* nan", "batch .* nan"]),
        (nothing, "text", ["cosine .* falls to nan at batch 1", "differ", "norms"]),
        (next_ones, "image", ["cosine", "differ", "batch", "pictures"]),
    ],
)
def test_each_fault_is_found_and_said(samples: Samples, fault: Fault, branch: Branch, said: list[str]) -> None:
    candidate = Faulty(branch, fault)
    report = verify(samples, image=candidate) if branch == "image" else verify(samples, text=candidate)
    assert not report.passed
    text = "\n".join(report.failures)
    for sentence in said:
        assert any(re.search(sentence, failure) for failure in report.failures), text
    other = "text" if branch == "image" else "image"
    assert f"The {other}" not in text
    values = json.dumps(report.to_json(), allow_nan=False)
    assert json.loads(values)["failures"] == list(report.failures) and not json.loads(values)["passed"]


def test_the_figures_are_those_of_a_plain_computation(samples: Samples) -> None:
    """Against loops over items, for a candidate that rounds as FP16 does."""
    rounding: Fault = lambda _feeds, z: z.astype(np.float16).astype(np.float32)  # noqa: E731
    report = verify(samples, image=Faulty("image", rounding), text=Faulty("text", rounding))
    image, text = reference("image"), reference("text")
    wanted = image({"pixels": samples.pixels}).astype(np.float64)
    found = wanted.astype(np.float16).astype(np.float64)
    tried = [number % 11 for size in SHAPES.batch_sizes for k in range(0, 8, size) for number in range(k, k + size)]
    cosines = [found[k] @ wanted[k] / np.linalg.norm(found[k]) / np.linalg.norm(wanted[k]) for k in tried]
    assert report.image.cosine_min == pytest.approx(min(cosines), abs=1e-12)
    assert report.image.cosine_mean == pytest.approx(np.mean(cosines), abs=1e-12)
    assert report.image.cosine_p1 == pytest.approx(np.percentile(cosines, 1), abs=1e-12)
    assert report.image.largest_difference == pytest.approx(np.abs(found - wanted)[tried].max())
    for segment in FACTS.layout.segments:
        piece = FACTS.layout.slices[segment.name]
        lowest = min(
            found[k, piece] @ wanted[k, piece] / np.linalg.norm(found[k, piece]) / np.linalg.norm(wanted[k, piece])
            for k in tried
        )
        assert report.image.segment_cosine_min[segment.name] == pytest.approx(lowest, abs=1e-12)
    captions = np.concatenate([text(samples.feeds([row])) for row in samples.rows]).astype(np.float64)
    rounded = captions.astype(np.float16).astype(np.float64)
    difference = np.abs(rounded @ found.T - captions @ wanted.T).max()
    assert report.ranking.largest_difference == pytest.approx(difference)


def test_rankings_differ_where_they_differ_and_ties_do_not_count(samples: Samples) -> None:
    """Two pictures trade places in the candidate; one caption ranks them apart across the border of the top k."""
    image = reference("image")({"pixels": samples.pixels})
    text = np.concatenate([reference("text")(samples.feeds([row])) for row in samples.rows])
    scores = text @ image.T
    fifth, sixth = np.argsort(-scores[2], kind="stable")[4:6]

    def trade(feeds: Feeds, z: Array) -> Array:
        for row, crop in enumerate(feeds["pixels"]):
            for one, other in ((fifth, sixth), (sixth, fifth)):
                if np.array_equal(crop, samples.pixels[one]):
                    z[row] = image[other]
        return z

    changed = scores.copy()
    changed[:, [fifth, sixth]] = changed[:, [sixth, fifth]]
    tops = [{tuple(np.argsort(-s, kind="stable")[:5].tolist()) for s in rows} for rows in (scores[2:3], changed[2:3])]
    assert tops[0] != tops[1]
    expected = np.mean(
        [len({*np.argsort(-a)[:5]} & {*np.argsort(-b)[:5]}) / 5 for a, b in zip(scores, changed, strict=True)]
    )
    report = verify(samples, image=Faulty("image", trade))
    assert expected < 1 and report.ranking.overlap == pytest.approx(expected)
    gap = float(np.max(np.abs(scores[:, fifth] - scores[:, sixth])))
    assert verify(samples, ParityLimits(tie=gap), image=Faulty("image", trade)).ranking.overlap == 1


def test_looser_limits_let_a_lower_precision_pass(samples: Samples) -> None:
    rounding: Fault = lambda _feeds, z: z.astype(np.float16).astype(np.float32)  # noqa: E731
    assert not verify(samples, image=Faulty("image", rounding)).passed
    loose = ParityLimits(cosine=0.9999, difference=1e-3, norm=1e-3, drift=1e-3, tie=1e-2)
    assert verify(samples, loose, image=Faulty("image", rounding), text=Faulty("text", rounding)).passed


def test_a_candidate_that_does_not_run_is_an_error_with_its_shape(samples: Samples) -> None:
    def only_one(_feeds: Feeds, z: Array) -> Array:
        if len(z) > 1:
            raise BackendError("the profile's batch is 1.", "Build it again.")
        return z

    with pytest.raises(
        VerificationError, match=r"image branch does not run .* \[3, 12, 4, 3\]: the profile's"
    ) as caught:
        verify(samples, image=Faulty("image", only_one))
    assert caught.value.hint == "Build it again."
    with pytest.raises(VerificationError, match=r"text branch gives .*\[1, 35\].* want text_embedding \[1, 36\]"):
        verify(samples, text=Faulty("text", lambda _feeds, z: z[:, 1:]))


def test_batches_have_the_shapes_asked_for_and_fill_them(samples: Samples) -> None:
    for length in (3, 4, 16, 40):
        feeds = samples.text_batch(2, 4, length)
        ids, mask = feeds["input_ids"], feeds["attention_mask"]
        assert ids.shape == mask.shape == (4, length) and ids.dtype == mask.dtype == np.int32
        assert mask[0].all()  # the first fills the length
        ends = mask.sum(1) - 1
        assert (ids[:, 0] == 2).all() and (ids[np.arange(4), ends] == 3).all()
        assert (ids[mask == 0] == 0).all() and (ids[mask == 1] != 0).all()
        assert ends.tolist()[1:] == [min(len(samples.rows[k % 6]), length) - 1 for k in (3, 4, 5)]
    pixels = samples.image_batch(9, 4)["pixels"]
    np.testing.assert_array_equal(pixels, samples.pixels[[9, 10, 0, 1]])


def test_shapes_end_at_the_models_length() -> None:
    assert Shapes.up_to(100).lengths == (3, 17, 64, 100) and Shapes.up_to(77).lengths == (3, 17, 64, 77)
    assert Shapes.up_to(256).lengths == (3, 17, 64, 100, 256)


def test_samples_without_a_caption_are_refused(tmp_path: Path) -> None:
    train_wordpiece(["a man"], 120).save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer(tmp_path / "tokenizer.json", caption_rule="none", max_length=20, pad_id=0)
    image = synthetic_samples()[0][0]
    with pytest.raises(UsageError, match="no caption"):
        prepare_samples([(image, ())], FACTS.preprocessing, tokenizer)
    with pytest.raises(UsageError, match="no caption"):
        ExportOptions(samples=[(image, ())])
    with pytest.raises(UsageError, match="opset is 17, want 18 to 22"):
        ExportOptions(opset=17)


def test_the_report_names_the_worst_shape(samples: Samples) -> None:
    def at_length_16(feeds: Feeds, z: Array) -> Array:
        return z if feeds["input_ids"].shape != (3, 16) else noise(feeds, z)

    report = verify(samples, text=Faulty("text", at_length_16))
    assert report.text.worst.startswith("batch 3 ") and report.text.worst.endswith("length 16")
    assert replace(report, limits=ParityLimits(0, 9, 9, 9, 5, 0)).passed

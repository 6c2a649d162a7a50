"""Golden vectors: one limit for whoever replays them."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from tbps_infer import doctor
from tbps_infer.benchmarks import latency
from tbps_infer.bundle import Bundle
from tbps_infer.errors import VerificationError
from tbps_infer.model_facts import PRECISIONS, Precision
from tbps_infer.runners.protocol import Feeds, Runner
from tbps_infer.verification.golden import golden_cosine
from tbps_infer.verification.tolerances import GOLDEN_COSINE


class Replay:
    """A runner that gives an array whatever it is fed."""

    description = "replay"

    def __init__(self, embeddings: NDArray[np.float32]) -> None:
        self.embeddings = embeddings
        self.closed = False

    def run(self, _feeds: Feeds) -> dict[str, NDArray[Any]]:
        return {"image_embedding": self.embeddings}

    def close(self) -> None:
        self.closed = True


def replay_at(bundle: Bundle, cosine: float) -> Runner:
    """Gives the golden embeddings of pictures, the last of them turned away to a cosine."""
    vectors = bundle.golden().image_embeddings.astype(np.float64)
    last = vectors[-1]
    across = np.random.default_rng(0).normal(size=last.shape)
    across -= last * (across @ last) / (last @ last)
    across *= math.sqrt((last @ last) / (across @ across))
    vectors[-1] = cosine * last + math.sqrt(1 - cosine**2) * across
    return cast(Runner, Replay(vectors.astype(np.float32)))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_doctor_and_benchmark_hold_the_worst_vector_to_the_same_limit(
    tiny_bundle: Path, precision: Precision
) -> None:
    bundle = Bundle.open(tiny_bundle)
    session: Any = SimpleNamespace(models=SimpleNamespace(bundle=bundle))
    choice: Any = SimpleNamespace(precision=precision, label=f"onnxruntime cpu {precision}")
    loss = 1 - GOLDEN_COSINE[precision]
    for cosine, kept in ((1 - loss * 0.8, True), (1 - loss * 1.2, False)):
        runner = replay_at(bundle, cosine)
        assert golden_cosine(bundle.golden(), "image", runner) == pytest.approx(cosine, abs=loss / 50)
        finding = doctor._replay(lambda runner=runner: runner, bundle, "image", precision)  # type: ignore[misc]
        assert finding.status == ("ok" if kept else "problem")
        assert cast(Any, runner).closed
        if kept:
            assert latency._golden_cosine(session, choice, "image", runner) == pytest.approx(cosine, abs=loss / 50)
            continue
        assert f"want {GOLDEN_COSINE[precision]}" in finding.detail
        with pytest.raises(VerificationError, match=f"want {GOLDEN_COSINE[precision]} at least"):
            latency._golden_cosine(session, choice, "image", runner)


@pytest.mark.parametrize("value", [0, np.nan])
def test_a_vector_without_a_cosine_is_a_problem(tiny_bundle: Path, value: float) -> None:
    bundle = Bundle.open(tiny_bundle)
    vectors = bundle.golden().image_embeddings.copy()
    vectors[1] = value
    runner = cast(Runner, Replay(vectors))
    assert math.isnan(golden_cosine(bundle.golden(), "image", runner))
    assert doctor._replay(lambda: runner, bundle, "image", "int8").status == "problem"

"""A score is the sum of its shares, and a layout survives its JSON form."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbps_infer.errors import BundleError
from tbps_infer.layout import Segment, VectorLayout


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(0, 2**32 - 1))
def test_shares_sum_to_the_inner_product(sizes: list[int], seed: int) -> None:
    layout = VectorLayout(tuple(Segment(f"s{i}", size) for i, size in enumerate(sizes)))
    rng = np.random.default_rng(seed)
    query = rng.normal(size=layout.dim).astype(np.float32)
    hits = rng.normal(size=(3, layout.dim)).astype(np.float32)
    shares = layout.split_scores(query, hits)
    assert shares.shape == (3, len(sizes))
    np.testing.assert_allclose(shares.sum(-1), hits @ query, atol=1e-4)
    for index, name in enumerate(layout.names):
        piece = layout.slices[name]
        np.testing.assert_allclose(shares[:, index], hits[:, piece] @ query[piece], atol=1e-4)


def test_json_round_trip() -> None:
    layout = VectorLayout((Segment("global", 4), Segment("fine.0", 2, 0.5), Segment("fine.1", 2, 0.5)))
    assert VectorLayout.from_json(layout.to_json()) == layout
    assert layout.squared_norm == 2.0


@pytest.mark.parametrize("segments", [(), (Segment("a", 1), Segment("a", 2)), (Segment("a", 0),)])
def test_senseless_layouts_are_refused(segments: tuple[Segment, ...]) -> None:
    with pytest.raises(BundleError, match="distinct, non-empty"):
        VectorLayout(segments)


def test_json_of_another_shape_is_refused() -> None:
    with pytest.raises(BundleError, match="not valid"):
        VectorLayout.from_json([{"name": "global"}])

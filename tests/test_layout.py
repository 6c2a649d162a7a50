"""A layout survives its JSON form, and a senseless one is refused."""

from __future__ import annotations

import pytest

from tbps_infer.errors import BundleError
from tbps_infer.layout import Segment, VectorLayout


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

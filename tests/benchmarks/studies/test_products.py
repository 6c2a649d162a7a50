from __future__ import annotations

import pytest

from tbps_infer.benchmarks.studies.products import product_arms


def test_products_in_parts_are_the_whole_one() -> None:
    pytest.importorskip("numkong")
    arms = product_arms(1700, 3)  # ways that are not exact are left out: those that are cut are exact everywhere
    assert {"int8 NumKong", "float16 NumKong", "float32 BLAS", "int8 NumKong, cut at 512"} <= set(arms)
    assert "int8 NumKong, cut at 3328" not in arms

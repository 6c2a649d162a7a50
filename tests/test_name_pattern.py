"""Metadata from file names: patterns, data sets' presets, and patterns that cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from tbps_infer.errors import UsageError
from tbps_infer.name_pattern import NAME_PATTERNS, NamePattern

OPERATOR = "cam{camera}_{time:%Y-%m-%dT%H-%M-%S}_{}"


@pytest.mark.parametrize(
    ("pattern", "path", "values"),
    [
        (OPERATOR, "/a/cam1.10_2024-05-31T08-30-00_17.jpg", {"camera": "1.10", "time": "2024-05-31T08:30:00"}),
        (OPERATOR, "/a/cam1_2024-02-31T08-30-00_17.jpg", None),
        (OPERATOR, "/a/cam1_2024-05-31_17.jpg", None),
        (OPERATOR, "/a/xcam1_2024-05-31T08-30-00_17.jpg", None),
        (
            "{time:%Y%m%d_%H%M%S}_{shop}",
            "20240531_083000_a_2.png",
            {"time": "2024-05-31T08:30:00", "shop": "a_2"},
        ),
        ("{camera}/{time:%Y/%m/%d}/{id}-{}", "/x/gate/2024/05/31/7-1.jpg", {"camera": "gate", "id": "7"}),
        ("{time}_{}", "1717144200_1.jpg", {"time": "1717144200"}),
        ("{{{id}}}", "{7}.jpg", {"id": "7"}),
        ("market1501", "0002_c1s1_000451_03.jpg", {"id": "0002", "camera": "c1"}),
        ("market1501", "-1_c3s2_000401_00.jpg.jpg", {"id": "-1", "camera": "c3"}),
        ("dukemtmc", "0005_c2_f0046985.jpg", {"id": "0005", "camera": "c2"}),
        ("msmt17", "test/0003/0003_019_05_0303morning_0040_0.jpg", {"id": "0003", "camera": "05"}),
        ("msmt17", "0003_019_05_0303morning_0040_0_ex.jpg", {"id": "0003", "camera": "05"}),
        ("cuhk-pedes", "imgs/CUHK01/0363004.png", {"camera": "CUHK01"}),
        ("cuhk-pedes", "imgs/train_query/p8848_s17661.jpg", {"camera": "train_query"}),
        ("market1501", "portrait.jpg", None),
    ],
)
def test_names_hold_metadata(pattern: str, path: str, values: dict[str, str] | None) -> None:
    found = NamePattern(pattern).match(Path(path))
    if values is None or found is None:
        assert found == values
    else:
        assert {name: found[name] for name in values} == values
        assert set(found) - set(values) <= {"time"}


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        ("x_{}", "names no column"),
        ("{id}_{id}", "there twice"),
        ("{id", "cannot be used: "),
        ("{id:%Y}", "only a time has a form"),
        ("{time:%Q}", "%Q is not known"),
        ("{time:%H-%M-%S}_{}", "has no year"),
        ("{time:%Y-%m-%d_%Y}_{}", "has a directive twice"),
        ("{time:%Y-%m-%d%}_{}", "ends with a %"),
        ("{camera!r}_{}", "converts its value"),
        ("{record}", "reserved"),
        ("{tbps_x}", "reserved"),
    ],
)
def test_patterns_that_cannot_be_used(pattern: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem) as caught:
        NamePattern(pattern)
    assert all(name in caught.value.hint for name in NAME_PATTERNS)

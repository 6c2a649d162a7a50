"""The table of tolerances is the only one, and what exceeds a limit is refused in one way."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from places import ROOT

from tbps_infer.errors import VerificationError
from tbps_infer.model_facts import PRECISIONS
from tbps_infer.verification.tolerances import GATE, GOLDEN_COSINE, PARITY, ParityLimits, refuse_failures

TABLE = "tbps_infer/verification/tolerances.py"
OTHER_NUMBERS = {
    "tbps_infer/data/synth/": "drawn people: proportions, colours and probabilities",
    "tbps_infer/data/scenes/": "drawn streets: likewise",
    "tbps_infer/explain/field.py": "the share of a field's energy that its size is given for",
    "tbps_infer/gallery/lance/index.py": "the recall that an index's probes are chosen for",
    "tbps_infer/training/options.py": "the learning rate's warm-up from 0.1 to 1",
    "tbps_infer/gallery/search/": "how much of the vectors' energy the sketch keeps",
    "benchmarks/studies/serve_load.py": "percentiles of latencies",
    "cli/serve.py": "the share of --grace after which the server says what still runs",
}
"""Where numbers from 0.9 to 1 are no limit on a comparison of embeddings, and what they are."""


def _product() -> Iterator[tuple[str, ast.Module]]:
    for folder in ("tbps_infer", "export", "benchmarks", "cli"):
        for file in sorted(Path(ROOT / folder).rglob("*.py")):
            yield file.relative_to(ROOT).as_posix(), ast.parse(file.read_text(encoding="utf-8"))


def _limits(tree: ast.Module) -> set[float]:
    """The numbers that look like a least cosine or a least overlap."""
    numbers = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    return {number for number in numbers if isinstance(number, float) and 0.9 <= number < 1}


def _multiplies_norms(tree: ast.Module) -> bool:
    """Whether a product of two norms, the lower half of a cosine, is written down."""
    products = (node for node in ast.walk(tree) if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult))
    return any(_is_norm(node.left) and _is_norm(node.right) for node in products)


def _is_norm(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func).endswith("linalg.norm")


def test_no_other_module_holds_a_limit_on_cosines_or_overlaps() -> None:
    found = {name: limits for name, tree in _product() if (limits := _limits(tree))}
    assert TABLE in found
    strangers = {name for name in found if name != TABLE and not name.startswith(tuple(OTHER_NUMBERS))}
    assert not strangers, {name: found[name] for name in strangers}
    for place in OTHER_NUMBERS:
        assert any(name.startswith(place) for name in found), f"{place} holds no such number: take it off the list"


def test_no_other_module_computes_a_cosine_of_two_sets() -> None:
    assert [name for name, tree in _product() if _multiplies_norms(tree)] == ["tbps_infer/verification/similarity.py"]


def test_every_precision_has_limits_for_every_purpose_and_a_lower_one_is_held_to_less() -> None:
    assert tuple(PARITY) == tuple(GOLDEN_COSINE) == tuple(GATE) == PRECISIONS
    for row in (
        [ParityLimits().cosine, *(PARITY[precision].cosine for precision in PRECISIONS)],
        list(GOLDEN_COSINE.values()),
        [GATE[precision].min_cosine for precision in PRECISIONS],
        [GATE[precision].min_overlap for precision in PRECISIONS],
    ):
        assert row == sorted(row, reverse=True) and row[-1] < row[0] <= 1
    assert all(GOLDEN_COSINE[precision] <= PARITY[precision].cosine for precision in PRECISIONS)


def test_failures_are_refused_with_all_their_sentences() -> None:
    refuse_failures((), "Do something.")
    with pytest.raises(VerificationError) as caught:
        refuse_failures(("One is low.", "Two is high."), "Do something.", "The gate refuses it: ")
    assert caught.value.message == "The gate refuses it: One is low. Two is high."
    assert caught.value.hint == "Do something."

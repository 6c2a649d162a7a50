"""The notebook of the Python interface: its cells run in order and print what it shows."""

from __future__ import annotations

import ast
import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
from documents import assert_alike
from places import ROOT

NOTEBOOK = ROOT / "docs" / "python.ipynb"


def test_the_cells_print_what_they_show(
    tmp_path: Path, shipped_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bundle").symlink_to(shipped_bundle)
    names: dict[str, Any] = {}
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] != "code":
            continue
        printed, value = _run("".join(cell["source"]), names)
        streams = [output for output in cell["outputs"] if output["output_type"] == "stream"]
        assert_alike(printed.splitlines(), "".join("".join(each["text"]) for each in streams).splitlines())
        results = [output["data"] for output in cell["outputs"] if output["output_type"] == "execute_result"]
        assert bool(results) == (value is not None)
        for data in results:
            assert "text/html" not in data or value._repr_html_().startswith('<div style="display:flex')


def _run(source: str, names: dict[str, Any]) -> tuple[str, Any]:
    """What a cell prints, and the value of its last line, where that is an expression."""
    tree = ast.parse(source)
    last = tree.body[-1]
    if isinstance(last, ast.Expr):
        tree.body.pop()
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(tree, str(NOTEBOOK), "exec"), names)
        value = None
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), str(NOTEBOOK), "eval"), names)
    return printed.getvalue(), value

"""The shape of the code: what imports what, and what the library leaves to the command line."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from places import ROOT

FOLDERS = {
    "tbps_infer": "tbps_infer",
    "export": "tbps_infer.export",
    "benchmarks": "tbps_infer.benchmarks",
    "cli": "tbps_infer.cli",
}
ALLOWED = {
    "tbps_infer": set[str](),
    "export": {"tbps_infer.export"},
    "benchmarks": {"tbps_infer.export", "tbps_infer.benchmarks"},
    "cli": {"tbps_infer.export", "tbps_infer.benchmarks", "tbps_infer.cli"},
}
HEAVY = (
    "torch",
    "transformers",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "safetensors",
    "lightning_fabric",
    "tensorrt",
    "pycuda",
)


def _files(folder: str) -> Iterator[Path]:
    return (file for file in sorted((ROOT / folder).rglob("*.py")))


def _modules() -> Iterator[tuple[str, Path, str]]:
    for folder, package in FOLDERS.items():
        for file in _files(folder):
            inner = file.relative_to(ROOT / folder).with_suffix("").parts
            name = ".".join([package, *(part for part in inner if part != "__init__")])
            yield folder, file, name


def _imports(tree: ast.AST) -> Iterator[tuple[ast.stmt, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}"
            yield node, node.module or ""
            yield from ((node, f"{node.module}.{alias.name}") for alias in node.names)


@pytest.mark.parametrize("folder", FOLDERS)
def test_arrows_point_one_way(folder: str) -> None:
    others = {package for package in FOLDERS.values() if package != "tbps_infer"} - ALLOWED[folder]
    for file in _files(folder):
        for node, name in _imports(ast.parse(file.read_text())):
            for other in others:
                assert not (name == other or name.startswith(f"{other}.")), f"{file}:{node.lineno} imports {name}"


def test_the_library_neither_prints_nor_exits_nor_knows_click() -> None:
    for folder in ("tbps_infer", "export"):
        for file in _files(folder):
            tree = ast.parse(file.read_text())
            assert not any(name.split(".")[0] == "click" for _, name in _imports(tree)), file
            for node in ast.walk(tree):
                if isinstance(node, ast.Call):
                    called = ast.unparse(node.func)
                    assert called not in ("print", "exit", "quit", "sys.exit", "os._exit"), f"{file}:{node.lineno}"


def test_every_module_says_what_it_holds() -> None:
    for _, file, _ in _modules():
        assert ast.get_docstring(ast.parse(file.read_text())), file


def test_the_runtime_imports_without_what_only_export_needs() -> None:
    """The edge device has numpy, Pillow, tokenizers, click and one backend: these modules must import there."""
    apart = (
        "tbps_infer.reference",
        "tbps_infer.training",
        "tbps_infer.families",
        "tbps_infer.export",
        "tbps_infer.benchmarks",
    )
    light = [name for _, _, name in _modules() if not name.startswith(apart)]
    light.append("tbps_infer.reference.config")
    for name in ("tbps_infer.runners.torch_runner", "tbps_infer.explain.maps"):  # their whole point
        light.remove(name)
    code = (
        "import sys, importlib\n"
        f"for name in {HEAVY!r}: sys.modules[name] = None\n"
        f"for name in {light!r}: importlib.import_module(name)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_module_imports() -> None:
    names = [name for _, _, name in _modules()]
    code = f"import importlib\nfor name in {names!r}: importlib.import_module(name)"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_importing_the_package_takes_numpy_at_most() -> None:
    code = (
        "import sys; before = set(sys.modules); import tbps_infer\n"
        "print(sorted({m.split('.')[0] for m in set(sys.modules) - before} - set(sys.stdlib_module_names)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() in ("['tbps_infer']", "['numpy', 'tbps_infer']")

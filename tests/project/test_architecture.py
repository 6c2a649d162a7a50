"""The shape of the code: what imports what, and what the library leaves to the command line."""

from __future__ import annotations

import ast
import functools
import importlib
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

from places import ROOT

FOLDERS = {
    "tbps_infer": "tbps_infer",
    "export": "tbps_infer.export",
    "benchmarks": "tbps_infer.benchmarks",
    "cli": "tbps_infer.cli",
}
FLOORS = (
    ("errors",),
    ("formats",),
    ("tensorrt.flavours",),
    ("atomic", "cores", "decode_memory", "devices", "layout", "preprocessing", "tokenizer_files"),
    ("host_memory",),
    ("decoding", "images", "lists", "model_facts", "pictures"),
    ("data", "folders", "gallery.columns", "gallery.times", "inline_picture"),
    ("evaluation", "gallery.expressions", "metadata", "name_pattern"),
    ("sources", "queries"),
    ("bundle", "runners.options", "runners.protocol"),
    ("reference", "runners.buckets", "text"),
    ("families", "tensorrt", "training"),
    ("runners",),
    ("encoder", "video"),
    ("gallery.folder", "gallery.roots", "gallery.vectors"),
    ("gallery.records",),
    ("gallery.filters",),
    ("gallery.search",),
    ("gallery",),
    ("moves",),
    ("embedding", "pruning", "render", "triton", "verification", "watching"),
    ("doctor", "explain"),
    ("export", "serve"),
    ("benchmarks",),
    ("benchmarks.studies",),
    ("cli",),
)
"""The rooms of the code from the ground up. A room imports from itself and from the floors below it."""
ROOMS = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

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


@functools.cache
def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


def _imports(tree: ast.AST) -> Iterator[tuple[ast.stmt, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}"
            yield from ((node, f"{node.module}.{alias.name}") for alias in node.names)


@functools.cache
def _graph() -> dict[str, dict[str, str]]:
    """What each module of this project imports of it, at its head, in functions and for types alone; and where.

    The package itself is left out: it imports nothing, and names for types what it loads when that is asked for.
    """
    files = {name: file for _, file, name in _modules() if name != "tbps_infer"}
    graph: dict[str, dict[str, str]] = {}
    for module, file in files.items():
        graph[module] = {}
        for node, name in _imports(_tree(file)):
            found = name if name in files else name.rpartition(".")[0]
            if found in files and found != module:
                graph[module][found] = f"{file.relative_to(ROOT)}:{node.lineno}"
    return graph


def _room(module: str) -> str:
    parts = module.split(".")[1:]
    names = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next(name for name in names if name in ROOMS)


def test_rooms_import_from_the_floors_below_them_only() -> None:
    wrong = [
        f"{place}: {_room(module)} imports {name}"
        for module, imported in _graph().items()
        for name, place in imported.items()
        if _room(module) != _room(name) and ROOMS[_room(module)] <= ROOMS[_room(name)]
    ]
    assert wrong == []
    package = _imports(_tree(ROOT / "tbps_infer" / "__init__.py"))
    assert not [
        name for _, name in package if name.startswith(tuple(p for p in FOLDERS.values() if p != "tbps_infer"))
    ]


def test_modules_import_each_other_in_no_circle() -> None:
    """What imports nothing that is left, or is imported by nothing that is left, goes; what stays is in circles."""
    graph = {module: set(imported) for module, imported in _graph().items()}
    while graph:
        imported = set().union(*graph.values())
        ends = {module for module, names in graph.items() if not names or module not in imported}
        if not ends:
            break
        graph = {module: names - ends for module, names in graph.items() if module not in ends}
    assert graph == {}


def test_the_library_neither_prints_nor_exits_nor_knows_click() -> None:
    for folder in ("tbps_infer", "export"):
        for file in _files(folder):
            tree = _tree(file)
            assert not any(name.split(".")[0] == "click" for _, name in _imports(tree)), file
            for node in ast.walk(tree):
                if isinstance(node, ast.Call):
                    called = ast.unparse(node.func)
                    assert called not in ("print", "exit", "quit", "sys.exit", "os._exit"), f"{file}:{node.lineno}"


READERS = ("json.load", "json.loads", "np.load", "onnx.load", "sqlite3.connect", "Tokenizer.from_file", "yaml.load")
"""What reads a format that somebody else may have written; each has its boundary, which bounds and types it."""
BOUNDARIES = ("tbps_infer/formats", "tbps_infer/families/settings.py")
OWN_WORDS = {"tbps_infer/preprocessing.py": "json.loads"}  # of what was written a moment before, in memory


def test_formats_are_read_at_their_boundaries_alone() -> None:
    found = [
        f"{place}:{node.lineno}: {called}"
        for folder in ("tbps_infer", "export", "cli")
        for file in _files(folder)
        if not (place := str(file.relative_to(ROOT))).startswith(BOUNDARIES)
        for node in ast.walk(_tree(file))
        if isinstance(node, ast.Call) and (called := ast.unparse(node.func)).endswith(READERS)
        if OWN_WORDS.get(place) != called
    ]
    assert found == []


def test_every_module_says_what_it_holds() -> None:
    for _, file, _ in _modules():
        assert ast.get_docstring(_tree(file)), file


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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _, _, name in _modules():
            importlib.import_module(name)


def test_importing_the_package_takes_numpy_at_most() -> None:
    code = (
        "import sys; before = set(sys.modules); import tbps_infer\n"
        "print(sorted({m.split('.')[0] for m in set(sys.modules) - before} - set(sys.stdlib_module_names)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() in ("['tbps_infer']", "['numpy', 'tbps_infer']")

"""Everything that the project uses of TensorRT is there in each version it runs on, by the real bindings.

The bindings are packages of their own; each goes into a folder of its own, because they share one import name::

    pip install --no-deps --target .tensorrt-bindings/10.3 tensorrt-cu12-bindings==10.3.0
    pip install --no-deps --target .tensorrt-bindings/10.16 tensorrt-cu13-bindings==10.16.1.11
    pip install --no-deps --target .tensorrt-bindings/11.4 tensorrt-cu13-bindings==11.4.0.106
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from places import ROOT

from tbps_infer.errors import BackendError, UsageError
from tbps_infer.tensorrt.flavours import FLAVOURS
from tbps_infer.tensorrt.library import OPTIONAL_API, REQUIRED_API, Library, missing_api, open_library

STUB = Path(__file__).parent / "stub"
BINDINGS = Path(os.environ.get("TBPS_TENSORRT_BINDINGS", ROOT / ".tensorrt-bindings"))
VERSIONS = ("10.3", "10.16", "11.4")


@pytest.fixture(scope="session")
def stub_libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the stub under the names that the bindings of TensorRT 10 and 11 load."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler here to make the stub library with")
    folder = tmp_path_factory.mktemp("stub")
    for version in (10, 11):
        for library in ("nvinfer", "nvinfer_plugin", "nvonnxparser"):
            name = f"lib{library}.so.{version}"
            subprocess.run(
                [compiler, "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", folder / name, STUB / "stub.c"],
                check=True,
            )
    return folder


def bindings_of(version: str) -> Path:
    """The folder with one version's bindings; skips when it is not there."""
    for folder in sorted(BINDINGS.glob(f"{version}*")):
        if (folder / "tensorrt_bindings").is_dir():
            return folder
    pytest.skip(f"no bindings of TensorRT {version} in {BINDINGS.name}; this file's first lines say how to get them")


def report(version: str, stub_libraries: Path) -> dict[str, Any]:
    environment = {**os.environ, "LD_LIBRARY_PATH": str(stub_libraries), "PYTHONPATH": str(bindings_of(version))}
    done = subprocess.run(
        [sys.executable, STUB / "report.py"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    values: dict[str, Any] = json.loads(done.stdout)
    return values


@pytest.mark.parametrize("version", VERSIONS)
def test_the_real_bindings_have_all_that_is_used(version: str, stub_libraries: Path) -> None:
    found = report(version, stub_libraries)
    assert found["version"].startswith(version)
    # What TensorRT for RTX alone has is not mistaken for being here.
    assert not any(found["optional"].values())
    # The stub answers null as a machine without a GPU does; the bindings make a TypeError of it.
    assert re.search(rf"^tensorrt {version}\S* makes no builder: .*nullptr", found["builder"])


def test_methods_take_the_same_parameters_in_all_versions(stub_libraries: Path) -> None:
    first, *others = (report(version, stub_libraries)["signatures"] for version in VERSIONS)
    assert first["Builder.build_serialized_network"] == ["self, network, config"]
    for other in others:
        # The first way of calling a method is the one used; a second one of `deserialize_cuda_engine` is gone.
        assert {name: ways[0] for name, ways in first.items() if ways and ways[0] not in other[name]} == {}


def test_tensorrt_for_rtx_has_all_that_is_used_and_what_it_alone_has() -> None:
    rtx = pytest.importorskip("tensorrt_rtx")
    assert missing_api(rtx) == []
    assert [f"{o}.{m}" for o, names in OPTIONAL_API.items() for m in names if not hasattr(getattr(rtx, o), m)] == []


def fake_module(without: str = "") -> ModuleType:
    """A module with the whole required API, less one member."""
    module = ModuleType("tensorrt")
    vars(module)["__version__"] = "9.9"
    for owner, members in REQUIRED_API.items():
        kept = {member: None for member in members if f"{owner}.{member}" != without}
        vars(module)[owner] = type(owner, (), kept)
    return module


def test_a_version_that_lacks_something_is_refused_and_named() -> None:
    flavour = FLAVOURS["tensorrt"]
    assert str(Library(fake_module(), flavour)) == "tensorrt 9.9"
    with pytest.raises(BackendError, match=r"tensorrt 9\.9 lacks ICudaEngine\.device_memory_size_v2\."):
        Library(fake_module("ICudaEngine.device_memory_size_v2"), flavour)


def test_a_flavour_that_is_not_installed_or_known_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(BackendError, match="The backend tensorrt cannot be imported") as caught:
        open_library.__wrapped__("tensorrt")
    assert "JetPack" in caught.value.hint
    with pytest.raises(UsageError, match="'tensorrt-lite' is not known"):
        open_library("tensorrt-lite")


@pytest.mark.parametrize(
    ("flavour", "option"),
    [("tensorrt", "target"), ("tensorrt-rtx", "optimization_level"), ("tensorrt-rtx", "timing_cache")],
)
def test_options_that_mean_nothing_to_a_flavour_are_refused(flavour: str, option: str) -> None:
    FLAVOURS[flavour].refuse_ignored({option: None, "workspace_bytes": 1})
    with pytest.raises(UsageError, match=f"{option.replace('_', ' ')} does not apply to {flavour}"):
        FLAVOURS[flavour].refuse_ignored({option: 0})


def test_none_and_false_become_errors_with_what_was_said() -> None:
    library = Library(fake_module(), FLAVOURS["tensorrt"])
    assert library.made(0, "count") == 0
    for nothing in (None, False):
        with pytest.raises(BackendError, match="could not build: TensorRT gave no reason"):
            library.made(nothing, "build")
    library.journal.note("ERROR", "Error Code 4: it is broken (In build at /_src/optimizer/api/builder.cpp:905)")
    library.journal.note("WARNING", "it may be slow")
    library.recorder.report_error(SimpleNamespace(), "and late")
    with pytest.raises(BackendError) as caught:
        library.made(None, "build")
    assert caught.value.message == "tensorrt 9.9 could not build: Error Code 4: it is broken; and late."
    assert (library.recorder.num_errors(), library.recorder.get_error_desc(0)) == (1, "and late")
    library.begin()
    assert (library.recorder.num_errors(), library.journal.errors, library.journal.warnings) == (0, [], [])

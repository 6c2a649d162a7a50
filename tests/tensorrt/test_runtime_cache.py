"""Contexts of TensorRT for RTX: the kernels that it compiled outlive the process."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_tensorrt import fake_library

from tbps_infer.errors import BackendError
from tbps_infer.tensorrt.runtime_cache import RuntimeCache


class FakeKernels:
    """A runtime cache; its kernels are the letters k."""

    def __init__(self) -> None:
        self.content = b""

    def deserialize(self, blob: bytes) -> bool:
        self.content = blob if blob.startswith(b"kernels") else b""
        return bool(self.content)

    def serialize(self) -> bytes:
        return self.content


class FakeConfig:
    """A runtime configuration."""

    def __init__(self, accepts: bool) -> None:
        self.cuda_graph_strategy = "DISABLED"
        self.strategy: str | None = None
        self.kernels: FakeKernels | None = None
        self.accepts = accepts

    def set_execution_context_allocation_strategy(self, strategy: str) -> None:
        self.strategy = strategy

    def create_runtime_cache(self) -> FakeKernels:
        return FakeKernels()

    def set_runtime_cache(self, kernels: FakeKernels) -> bool:
        self.kernels = kernels
        return self.accepts


class FakeEngine:
    """An engine of TensorRT for RTX, of which each context compiles ``compiles``."""

    def __init__(self, *, accepts: bool = True) -> None:
        self.configs: list[FakeConfig] = []
        self.compiles = b"k"
        self.accepts = accepts

    def create_runtime_config(self) -> FakeConfig:
        self.configs.append(FakeConfig(self.accepts))
        return self.configs[-1]

    def create_execution_context(self, config: FakeConfig) -> FakeConfig:
        assert config.strategy == "USER_MANAGED"
        assert config.kernels is not None
        config.kernels.content = (config.kernels.content or b"kernels ") + self.compiles
        return config


def run(path: Path, engine: FakeEngine, *, graphs: bool = True) -> None:
    """Two contexts in one process."""
    cache = RuntimeCache(fake_library("1.7.1", "tensorrt-rtx"), path, cuda_graphs=graphs)
    cache.context(engine)
    cache.context(engine)
    cache.close()
    cache.close()


def test_kernels_are_kept_for_the_next_process(tmp_path: Path) -> None:
    path, engine = tmp_path / "image.cache", FakeEngine()
    run(path, engine)
    assert path.read_bytes() == b"kernels kk"
    assert len({id(config.kernels) for config in engine.configs}) == 1, "contexts share them"
    run(path, engine)
    assert path.read_bytes() == b"kernels kkkk"
    engine.compiles = b""
    before = path.stat().st_ino
    run(path, engine)
    assert path.stat().st_ino == before, "nothing new, nothing written"


@pytest.mark.parametrize(("graphs", "strategy"), [(True, "WHOLE_GRAPH_CAPTURE"), (False, "DISABLED")])
def test_its_own_cuda_graphs_are_used_where_graphs_are(tmp_path: Path, graphs: bool, strategy: str) -> None:
    engine = FakeEngine()
    run(tmp_path / "image.cache", engine, graphs=graphs)
    assert {config.cuda_graph_strategy for config in engine.configs} == {strategy}


def test_damaged_kernels_are_told_and_compiled_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "image.cache"
    path.write_bytes(b"garbage")
    run(path, FakeEngine())
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert f"The kernels in {path} are damaged or of another driver, and are compiled again" in caplog.text
    assert path.read_bytes() == b"kernels kk"


def test_kernels_that_cannot_be_kept_are_told_and_cost_no_result(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(tmp_path / "gone" / "image.cache", FakeEngine())
    assert "Compiled kernels are not kept, so the next start compiles them again" in caplog.text
    assert not (tmp_path / "gone").exists()


def test_a_cache_that_is_not_taken_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="could not use a runtime cache"):
        run(tmp_path / "image.cache", FakeEngine(accepts=False))


def test_tensorrt_for_rtx_alone_has_such_a_cache() -> None:
    assert not RuntimeCache.serves(fake_library("11.4.0"))
    assert RuntimeCache.serves(fake_library("1.7.1", "tensorrt-rtx"))
    rtx = pytest.importorskip("tensorrt_rtx")
    library: Any = SimpleNamespace(has=lambda owner, name: hasattr(getattr(rtx, owner), name))
    assert RuntimeCache.serves(library)

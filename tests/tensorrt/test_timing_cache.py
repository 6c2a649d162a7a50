"""The times of kernels: shared by the builds of one command, kept per device, never a reason to fail."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_tensorrt import fake_library

from tbps_infer.errors import BackendError
from tbps_infer.tensorrt.gpus import GpuFacts
from tbps_infer.tensorrt.library import Library
from tbps_infer.tensorrt.timing_cache import TimingCache, timing_cache_file

ORIN = GpuFacts("Orin", "sm87", 8 << 30, 6 << 30, "12.6", "12.6")


class FakeConfig:
    """A builder configuration; its caches are words, each build adds one."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self.words: list[str] | None = None

    def create_timing_cache(self, stored: bytes) -> list[str] | None:
        if stored and not stored.startswith(b"times"):
            self.library.recorder.report_error(None, "the timing cache has no magic number")
            return None
        return stored.decode().split()

    def set_timing_cache(self, cache: list[str], ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        self.words = cache
        return "other" not in cache

    def build(self, kernel: str) -> None:
        assert self.words is not None
        self.words = [*(self.words or ["times"]), kernel]

    def get_timing_cache(self) -> SimpleNamespace:
        assert self.words is not None
        words = self.words
        return SimpleNamespace(serialize=lambda: " ".join(words).encode())


def build(cache: TimingCache, library: Library, kernel: str) -> list[str]:
    """The times that one build could use; it adds one."""
    config = FakeConfig(library)
    cache.attach(config)
    used = list(config.words or ())
    config.build(kernel)
    cache.keep(config)
    return used


def test_each_build_uses_the_times_of_those_before_it_and_of_earlier_commands(tmp_path: Path) -> None:
    library, path, told = fake_library(), tmp_path / "engines" / "times.cache", list[str]()
    for earlier in ([], ["times", "image", "text"]):
        cache = TimingCache(library, path, named=False, on_step=told.append)
        assert build(cache, library, "image") == earlier
        path.write_bytes(b"garbage")  # read once: what follows uses what is in memory
        assert build(cache, library, "text") == [*(earlier or ["times"]), "image"]
    assert path.read_bytes() == b"times image text image text"
    assert told == []


@pytest.mark.parametrize(("content", "reason"), [(b"garbage", "no magic number"), (b"times other", "gave no reason")])
def test_a_damaged_file_of_our_own_is_told_and_made_anew(tmp_path: Path, content: bytes, reason: str) -> None:
    library, path, told = fake_library(), tmp_path / "times.cache", list[str]()
    path.write_bytes(content)
    cache = TimingCache(library, path, named=False, on_step=told.append)
    assert build(cache, library, "image") == []
    assert path.read_bytes() == b"times image"
    (sentence,) = told
    assert f"{path} is damaged and was ignored" in sentence
    assert reason in sentence


@pytest.mark.parametrize("content", [b"garbage", b"times other"])
def test_a_file_that_the_user_named_is_never_overwritten_when_it_cannot_be_used(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "holiday.jpg"
    path.write_bytes(content)
    cache = TimingCache(fake_library(), path, named=True, on_step=lambda _step: None)
    with pytest.raises(BackendError, match=r"could not use the timing cache .*holiday\.jpg") as caught:
        build(cache, fake_library(), "image")
    assert "give another file" in caught.value.hint
    assert path.read_bytes() == content


def test_the_file_is_named_for_all_that_its_times_depend_on() -> None:
    assert timing_cache_file(fake_library("10.3.0"), ORIN) == "timing-10.3.0-orin-sm87-cuda12.6.cache"


def test_several_profiles_are_used_where_they_give_right_numbers() -> None:
    """NVIDIA/TensorRT#4250, fixed in 10.8."""
    found = {version: fake_library(version).several_profiles for version in ("10.3.0", "10.7.0.23", "10.8.0", "11.4")}
    assert found == {"10.3.0": False, "10.7.0.23": False, "10.8.0": True, "11.4": True}
    assert fake_library("1.7.1.116", "tensorrt-rtx").several_profiles

"""Models, their bundles and people that many tests share, made once per session."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from no_driver import without_driver
from places import SHIPPED_BUNDLE

# With usearch in the process before it, torch 2.13 cannot export ("Invalid function schema: add.Tensor"; tried with
# usearch 2.26): whichever test comes first, torch is there first.
with contextlib.suppress(ImportError):
    import torch  # noqa: F401

# Two noisy cores: how long an example takes says nothing about the code.
settings.register_profile("tbps", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tbps")

# A shell's background job ignores interruptions and so does all that it starts; tests interrupt themselves.
if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _keep_to_own_processors() -> None:
    """Give each of xdist's processes its share of the processors: idle threads of one would spin on the other's."""
    worker, workers = os.environ.get("PYTEST_XDIST_WORKER"), os.environ.get("PYTEST_XDIST_WORKER_COUNT")
    if worker and workers and hasattr(os, "sched_setaffinity"):
        own = sorted(os.sched_getaffinity(0))[int(worker.removeprefix("gw")) :: int(workers)]
        if own:
            os.sched_setaffinity(0, own)


_keep_to_own_processors()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give slow tests an hour: pyproject.toml has the limit of the others."""
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.timeout(3600), append=False)


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of a run share."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def exports_once(run_folder: Path) -> Iterator[None]:
    """Exports of bundles and of attention graphs share what they trace; `export_graph` itself is as ever.

    They are verified at every shape, on two items of each instead of eight.
    """
    from exported_once import exported_once

    import tbps_infer.export.bundle
    import tbps_infer.export.graphs
    from tbps_infer.verification.parity import Shapes

    class FewItems(Shapes):
        @classmethod
        def up_to(cls, max_length: int) -> Shapes:
            return replace(Shapes.up_to(max_length), items=2)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tbps_infer.export.bundle, "Shapes", FewItems)
        once = exported_once(tbps_infer.export.graphs.export_graph, run_folder)
        for module in (tbps_infer.export.bundle, tbps_infer.export.graphs):
            patch.setattr(module, "export_graph", once)
        yield


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory, exports_once: None) -> Path:  # noqa: ARG001
    """A folder with a checkpoint of the tiny configuration; the same random weights everywhere."""
    from tbps_infer.reference.config import tiny_config
    from tbps_infer.reference.pretrained import initial_checkpoint
    from tbps_infer.tokenizer_files import train_wordpiece
    from tbps_infer.verification.samples import synthetic_samples

    tokenizer = train_wordpiece([caption for _, captions in synthetic_samples() for caption in captions], 400)
    config = tiny_config(tokenizer.get_vocab_size())
    folder = tmp_path_factory.mktemp("models") / "tiny-checkpoint"
    return initial_checkpoint(folder, config, tokenizer.to_str(), seed=0)


@pytest.fixture(scope="session")
def tiny_bundle(tiny_checkpoint: Path, run_folder: Path) -> Path:
    """A folder with the bundle exported from it, one for all processes. Tests that alter a bundle copy it first."""
    from exported_once import locked

    from tbps_infer.export.bundle import export_bundle

    out = run_folder / "tiny-bundle"
    with locked(run_folder / "tiny-bundle.lock"):
        if not out.exists():
            export_bundle(tiny_checkpoint, out)
    return out


@pytest.fixture(scope="session")
def shipped_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the shipped bundle, of the trained checkpoint. Tests that alter a bundle copy it first."""
    return Path(shutil.copytree(SHIPPED_BUNDLE, tmp_path_factory.mktemp("models") / "shipped-bundle"))


@pytest.fixture(scope="session")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of 12 synthetic people, 48 pictures of them, all in the test split. Tests do not alter it."""
    from tbps_infer.data.synth import SynthOptions, write_dataset

    folder = tmp_path_factory.mktemp("data") / "people"
    write_dataset(folder, SynthOptions(only=("test",), test=12, workers=1))
    return folder


@pytest.fixture(scope="module")
def no_driver() -> Iterator[None]:
    """No GPU, for a whole module: what is built here is not executed, on any machine."""
    with without_driver():
        yield

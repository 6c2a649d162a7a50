"""Exports each graph once in a run of the tests, whichever of its processes asks first.

Tracing a module takes most of an export's time, and many tests export the same few models. What comes after is done
every time: `export_bundle` compares a graph with its PyTorch model before it keeps it, so that no test can be given
another model's graph and pass. The shipped checkpoint's graphs are those of the shipped bundle; that exporting gives
them is a test of its own (`tests/export/test_shipped.py`).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from places import SHIPPED_BUNDLE
from torch import nn

from tbps_infer.bundle import Bundle
from tbps_infer.model_facts import Branch, ModelFacts
from tbps_infer.runners.protocol import branch_specs

__all__ = ["exported_once", "locked"]

Export = Callable[..., None]


@contextlib.contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold a lock against the other processes of a run."""
    with file.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def exported_once(export: Export, folder: Path) -> Export:
    """The exporter of a branch's graph, keeping in ``folder`` what it writes, by the content of what it is given."""
    shipped = Bundle.open(SHIPPED_BUNDLE)
    defaults = {"opset": shipped.opset, "external_data": False}

    def export_or_copy(module: nn.Module, branch: Branch, facts: ModelFacts, path: Path, **options: Any) -> None:
        kept = folder / _key(module, branch, facts, path.name, options)
        with locked(kept.with_suffix(".lock")):
            if not kept.exists():
                if facts.fingerprint == shipped.model.fingerprint and options.items() <= defaults.items():
                    shutil.copyfile(shipped.check_graph(branch), path)
                else:
                    export(module, branch, facts, path, **options)
                written = kept.with_suffix(".new")
                written.mkdir()
                for file in path.parent.glob(f"{path.name}*"):
                    shutil.copyfile(file, written / file.name)
                written.rename(kept)
                return
        shutil.copytree(kept, path.parent, dirs_exist_ok=True)

    return export_or_copy


def _key(module: nn.Module, branch: Branch, facts: ModelFacts, name: str, options: dict[str, Any]) -> str:
    """What a graph follows from; the tokenizer is none of it."""
    digest = hashlib.sha256()
    specs = branch_specs(facts, branch)
    told = (type(module).__qualname__, repr(module), facts.config, facts.preprocessing, facts.max_length, specs)
    digest.update(repr((*told, name, sorted(options.items()))).encode())
    for key, tensor in module.state_dict().items():
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]

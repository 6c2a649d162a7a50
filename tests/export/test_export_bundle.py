"""An export, from its first check to the renaming at its end."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tbps_infer.export.bundle
from tbps_infer import atomic
from tbps_infer.bundle import Bundle, file_facts
from tbps_infer.errors import BundleError, CheckpointError, UsageError
from tbps_infer.export.bundle import export_bundle
from tbps_infer.export.options import ExportOptions
from tbps_infer.families.table import FAMILIES
from tbps_infer.model_facts import Branch
from tbps_infer.verification.samples import synthetic_samples


@pytest.fixture
def ready_graphs(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports take the tiny bundle's graphs, which saves their making; all else is as ever."""

    def export(_module: object, _branch: Branch, _facts: object, path: Path, **_options: object) -> None:
        shutil.copy(tiny_bundle / path.name, path)

    monkeypatch.setattr(tbps_infer.export.bundle, "export_graph", export)


def everything_below(folder: Path) -> list[str]:
    return sorted(entry.relative_to(folder).as_posix() for entry in folder.rglob("*"))


@pytest.mark.usefixtures("ready_graphs")
def test_the_same_checkpoint_gives_the_same_files(tiny_checkpoint: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    steps: list[str] = []
    out = tmp_path / "new" / "folder" / "bundle"
    again = export_bundle(tiny_checkpoint / "model.safetensors", out, on_step=steps.append)
    first = Bundle.open(tiny_bundle)
    assert again.path == out and again.files == first.files and again.model == first.model
    assert steps == [
        f"Loading {tiny_checkpoint / 'model.safetensors'}",
        "Exporting the image branch",
        "Exporting the text branch",
        "Writing golden vectors",
        "Verifying on 16 crops and 32 captions",
        "Hashing the files",
    ]
    assert everything_below(tmp_path / "new") == ["folder", "folder/bundle"] + [
        f"folder/bundle/{name}" for name in everything_below(tiny_bundle)
    ]
    umask = os.umask(0)
    os.umask(umask)
    assert out.stat().st_mode & 0o777 == 0o777 & ~umask


@pytest.mark.usefixtures("ready_graphs")
def test_verification_takes_the_users_own_crops_and_leaves_them_out(tiny_checkpoint: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    crops = [Image.fromarray(rng.integers(0, 256, (70, 30, 3), dtype=np.uint8)) for _ in range(3)]
    samples = [(crops[0], ["a tall man"]), (crops[1], []), (crops[2], ["a woman in red", "she has a bag", "a hat"])]
    steps: list[str] = []
    bundle = export_bundle(tiny_checkpoint, tmp_path / "bundle", ExportOptions(samples=samples), steps.append)
    assert "Verifying on 3 crops and 4 captions" in steps
    ranking = bundle.verification["ranking"]
    assert (ranking["captions"], ranking["pictures"], ranking["top_k"]) == (4, 3, 3)
    golden = bundle.golden()
    assert golden.captions == tuple(captions[0] for _, captions in synthetic_samples()[:4])


@pytest.mark.usefixtures("ready_graphs")
@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interruption_at_any_step_leaves_nothing(
    tiny_checkpoint: Path, tmp_path: Path, number: int, error: type[BaseException]
) -> None:
    seen = 0

    def interrupt(_step: str) -> None:
        nonlocal seen
        seen += 1
        if seen == number + 1:
            raise error

    with pytest.raises(error):
        export_bundle(tiny_checkpoint, tmp_path / "bundle", on_step=interrupt)
    assert everything_below(tmp_path) == []


def test_what_is_there_is_not_overwritten_unasked(tiny_bundle: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    steps: list[str] = []
    with pytest.raises(BundleError, match="bundle already exists"):
        export_bundle(tiny_checkpoint, out, on_step=steps.append)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    with pytest.raises(BundleError, match="full already exists"):
        export_bundle(tiny_checkpoint, tmp_path / "full", on_step=steps.append)
    assert not steps  # said before any work
    Bundle.open(out).check_files()


def test_only_a_bundle_is_overwritten(tiny_bundle: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "photograph.jpg").write_text("mine", encoding="utf-8")
    (tmp_path / "link").symlink_to(tiny_bundle)
    (tmp_path / "nowhere").symlink_to(tmp_path / "missing")
    before = everything_below(tmp_path)
    for name in ("file", "folder", "link", "nowhere"):
        with pytest.raises(BundleError, match=f"{name} already exists and is not a bundle"):
            export_bundle(tiny_checkpoint, tmp_path / name, ExportOptions(overwrite=True))
    assert everything_below(tmp_path) == before
    with pytest.raises(BundleError, match="not a bundle"):
        export_bundle(tiny_checkpoint, tiny_checkpoint, ExportOptions(overwrite=True))


def bundle_beside_others(bundle: Path, copy: Path) -> Path:
    """A copy of a bundle with FP16 graphs of its own, and with engines and a gallery that no export wrote."""
    shutil.copytree(bundle, copy)
    for name in ("image.fp16.onnx", "text.fp16.onnx"):
        (copy / name).write_text("half", encoding="utf-8")
    opened = Bundle.open(copy)
    dataclasses.replace(opened, files=file_facts(copy)).write_facts()
    for name in ("gallery/notes.txt", "engines/mine/image.plan"):
        (copy / name).parent.mkdir(parents=True)
        (copy / name).write_text("mine", encoding="utf-8")
    return copy


@pytest.mark.usefixtures("ready_graphs")
def test_what_no_export_wrote_stays_when_a_bundle_is_replaced(
    tiny_bundle: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    out = bundle_beside_others(tiny_bundle, tmp_path / "bundle")
    steps: list[str] = []
    export_bundle(tiny_checkpoint, out, ExportOptions(overwrite=True), steps.append)
    theirs = ["engines", "engines/mine", "engines/mine/image.plan", "gallery", "gallery/notes.txt"]
    assert everything_below(out) == sorted([*everything_below(tiny_bundle), *theirs])
    assert (out / "gallery" / "notes.txt").read_text(encoding="utf-8") == "mine"
    assert steps[-1] == f"Kept in {out}, as it is not part of the bundle: engines, gallery"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.usefixtures("ready_graphs")
def test_a_bundle_stays_when_the_new_files_cannot_take_their_places(
    tiny_bundle: Path, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = bundle_beside_others(tiny_bundle, tmp_path / "bundle")
    before = everything_below(out)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic, "write_text", full)
    with pytest.raises(BundleError, match="bundle cannot be written: No space left on device"):
        export_bundle(tiny_checkpoint, out, ExportOptions(overwrite=True))
    assert everything_below(out) == before and len(list(tmp_path.iterdir())) == 1
    Bundle.open(out).check_files()


def test_a_bundle_whose_files_are_not_known_is_not_overwritten(
    tiny_bundle: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    (out / "bundle.json").write_text("{", encoding="utf-8")
    with pytest.raises(BundleError, match="which files are the bundle's is not known"):
        export_bundle(tiny_checkpoint, out, ExportOptions(overwrite=True))


@pytest.mark.usefixtures("ready_graphs")
def test_an_empty_folder_becomes_a_bundle(tiny_bundle: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / ".bundle.0123abcd.partial" / "half").mkdir(parents=True)
    export_bundle(tiny_checkpoint, tmp_path / "bundle")
    assert everything_below(tmp_path / "bundle") == everything_below(tiny_bundle)


@pytest.mark.usefixtures("ready_graphs")
def test_what_a_killed_export_left_beside_its_output_is_swept(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / ".bundle.0123abcd.partial" / "golden").mkdir(parents=True)
    export_bundle(tiny_checkpoint, tmp_path / "bundle")
    assert [entry.name for entry in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.usefixtures("ready_graphs")
def test_a_place_that_cannot_be_written_is_the_users_error(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(BundleError, match="cannot be written: File exists"):
        export_bundle(tiny_checkpoint, tmp_path / "file" / "bundle")
    with pytest.raises(BundleError, match="cannot be written: File name too long"):
        export_bundle(tiny_checkpoint, tmp_path / ("b" * 250))
    assert everything_below(tmp_path) == ["file"]

    def another(_step: str) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        export_bundle(tiny_checkpoint, tmp_path / "bundle", on_step=another)


def test_a_family_or_checkpoint_that_is_not_there_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="family 'alexnet' is not known") as caught:
        export_bundle(tiny_checkpoint, tmp_path / "bundle", ExportOptions(family="alexnet"))
    assert caught.value.hint == f"Give one of {', '.join(FAMILIES)}, or MODULE:NAME."
    with pytest.raises(CheckpointError, match="does not exist"):
        export_bundle(tmp_path / "nowhere", tmp_path / "bundle")
    assert everything_below(tmp_path) == []


@pytest.mark.slow
def test_external_data_belongs_to_the_bundle(tiny_checkpoint: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = export_bundle(tiny_checkpoint, tmp_path / "bundle", ExportOptions(external_data=True))
    assert set(bundle.files) - set(Bundle.open(tiny_bundle).files) == {"image.onnx.data", "text.onnx.data"}
    bundle.check_graph("text")
    data = tmp_path / "bundle" / "text.onnx.data"
    content = bytearray(data.read_bytes())
    content[1000] ^= 1
    data.write_bytes(content)
    with pytest.raises(BundleError, match=r"text\.onnx\.data is not the file"):
        bundle.check_graph("text")


_FULL_SIZE = """
import json, resource, sys, time
from pathlib import Path
start = time.perf_counter()
from tbps_infer.export.bundle import export_bundle
bundle = export_bundle(Path(sys.argv[1]), Path(sys.argv[2]))
json.dump({"seconds": time.perf_counter() - start, "peak_kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
           "bytes": sum(fact.bytes for fact in bundle.files.values())}, sys.stdout)
"""


@pytest.mark.slow
def test_a_full_size_model_is_exported_and_verified(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """ResNet-50 and BERT-base at 384x128 with random weights, in a process of its own to see its memory."""
    from tbps_infer.reference.config import base_config
    from tbps_infer.reference.pretrained import initial_checkpoint
    from tbps_infer.tokenizer_files import train_wordpiece

    captions = [caption for _, captions in synthetic_samples() for caption in captions]
    checkpoint = initial_checkpoint(tmp_path / "full", base_config(), train_wordpiece(captions, 400).to_str(), seed=0)
    command = [sys.executable, "-c", _FULL_SIZE, str(checkpoint), str(tmp_path / "bundle")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    figures: dict[str, Any] = json.loads(done.stdout)  # and nothing else was printed
    for name, value in figures.items():
        record_property(name, value)
    print(figures)
    bundle = Bundle.open(tmp_path / "bundle")
    assert bundle.verification["passed"] and bundle.model.layout.dim == 6656
    assert figures["peak_kib"] < 12 * 1024**2
    shutil.rmtree(tmp_path)  # 1.3 GB

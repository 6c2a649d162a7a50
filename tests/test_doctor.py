"""`tbps doctor`: what counts of another resize is the embedding, and every graph of a bundle is replayed."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import fail, succeed
from numpy.typing import NDArray
from PIL import __version__ as pillow
from planted_faults import perturb_weights, seal

from tbps_infer import doctor
from tbps_infer.bundle import Bundle
from tbps_infer.errors import BackendError
from tbps_infer.images import load_crop
from tbps_infer.preprocessing import Preprocessing

pytestmark = pytest.mark.usefixtures("no_driver")

_Crop = NDArray[np.uint8]


def rounded_otherwise(crop: _Crop) -> _Crop:
    """As the other versions of Pillow give it: by up to 4 of 255, here and there."""
    change = np.random.default_rng(0).choice([-4, -1, 0, 1, 4], p=[0.02, 0.08, 0.8, 0.08, 0.02], size=crop.shape)
    return np.asarray(np.clip(crop + change, 0, 255), dtype=np.uint8)


def plant(monkeypatch: pytest.MonkeyPatch, change: Callable[[Path, Preprocessing], _Crop]) -> None:
    monkeypatch.setattr(doctor, "load_crop", change)


def resizing(bundle: Path) -> doctor.Finding:
    (found,) = (finding for finding in doctor.examine_bundle(bundle) if finding.subject == "resizing")
    return found


def test_a_resize_that_moves_no_embedding_is_a_warning(shipped_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, lambda source, facts: rounded_otherwise(load_crop(source, facts)))
    done = succeed("doctor", shipped_bundle)
    (line,) = (line for line in done.stdout.splitlines() if "resizing: " in line)
    assert line.startswith("warning  resizing: 4 of 4 golden crops have other pixels here, by 4 of 255 at most")
    assert f"the bundle was made with pillow=={pillow}, and here is pillow {pillow}; golden cosine 0.9999" in line


def test_a_resize_that_moves_embeddings_is_a_problem_with_a_way_out(
    shipped_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = {"bilinear": "bicubic", "bicubic": "bilinear"}

    def filtered(source: Path, facts: Preprocessing) -> _Crop:
        changed: Any = other[facts.interpolation]
        return load_crop(source, dataclasses.replace(facts, interpolation=changed))

    plant(monkeypatch, filtered)
    found = resizing(shipped_bundle)
    assert found.status == "problem"
    assert found.detail.endswith("; want 0.9999")
    assert found.action == f"Install pillow=={pillow}, or export the bundle again with the one that is here."


def test_a_resize_that_cannot_be_measured_is_no_problem(
    shipped_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object) -> None:
        raise BackendError("ONNX Runtime is not installed.", "Install it.")

    plant(monkeypatch, lambda source, facts: rounded_otherwise(load_crop(source, facts)))
    monkeypatch.setattr(doctor, "open_runner", missing)
    found = resizing(shipped_bundle)
    assert found.status == "warning"
    assert found.detail.endswith("ONNX Runtime is not installed.")
    assert found.action == "How far that moves embeddings was not measured. Install it."


def test_a_bundle_that_names_no_pillow_is_told_so(
    shipped_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = Path(shutil.copytree(shipped_bundle, tmp_path / "bundle"))
    opened = Bundle.open(bundle)
    without = {name: version for name, version in opened.versions.items() if name != "pillow"}
    dataclasses.replace(opened, versions=without).write_facts()
    plant(monkeypatch, lambda source, facts: rounded_otherwise(load_crop(source, facts)))
    assert "the bundle was made with a pillow that it does not name" in resizing(bundle).detail


def test_int8_graphs_are_replayed(shipped_bundle: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(shipped_bundle, tmp_path / "bundle"))
    for branch in ("image", "text"):
        shutil.copy(bundle / f"{branch}.onnx", bundle / f"{branch}.int8.onnx")
    seal(bundle)
    done = succeed("doctor", bundle)
    assert "ok       onnxruntime cpu int8 image: golden cosine 1.0000000" in done.stdout
    perturb_weights(bundle / "image.int8.onnx")
    seal(bundle)
    done = fail(1, "doctor", bundle)
    assert "PROBLEM  onnxruntime cpu int8 image: golden cosine 0." in done.stdout
    assert "ok       onnxruntime cpu int8 text: golden cosine" in done.stdout


def test_the_extras_of_search_and_serve_are_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        doctor, "installed_versions", lambda names: {name: "1" for name in names if name != "uvicorn"}
    )
    found = {finding.subject: finding for finding in doctor.examine_machine()}
    assert (found["searching faster"].status, found["searching faster"].detail) == ("ok", "numkong 1, usearch 1")
    assert found["serving"].status == "absent" and "no uvicorn" in found["serving"].detail
    assert found["serving"].action == 'pip install "tbps-infer[serve]"'

"""`tbps verify` on the shipped checkpoint: the unharmed bundle passes, and every planted regression fails."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from command_line import fail, run, succeed
from onnx import helper, numpy_helper
from places import SHIPPED
from planted_faults import perturb_weights, seal

from tbps_infer.bundle import Bundle
from tbps_infer.data.readers import read_dataset
from tbps_infer.encoder import Encoder
from tbps_infer.errors import VerificationError
from tbps_infer.export.fp16.assignment import assign_fp16
from tbps_infer.export.fp16.emulation import emulated
from tbps_infer.export.fp16.rewrite import rewrite
from tbps_infer.export.graph_view import GraphView
from tbps_infer.runners import RunOptions
from tbps_infer.verification.evaluation_set import picture_set
from tbps_infer.verification.gate import hold_to_gate
from tbps_infer.verification.references import choose_reference
from tbps_infer.verification.tolerances import Thresholds

GLOBAL_HEAD = "linear_7"
"""The image branch's global vector before it is brought to norm 1, so that its scale does not count."""


@pytest.fixture
def bundle(shipped_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shipped_bundle, tmp_path / "bundle"))


def change_graph(bundle: Path, change: Callable[[onnx.ModelProto], onnx.ModelProto | None]) -> None:
    model = onnx.load(bundle / "image.onnx")
    onnx.save(change(model) or model, bundle / "image.onnx")
    seal(bundle)


def change_stored(model: onnx.ModelProto, name: str, change: Callable[[Any], Any]) -> None:
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == name)
    values = change(numpy_helper.to_array(tensor))
    tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), name))


def spoil_weights(bundle: Path) -> None:
    perturb_weights(bundle / "image.onnx")
    seal(bundle)


def swap_channels(bundle: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.graph.initializer.append(numpy_helper.from_array(np.array([2, 1, 0]), "bgr"))
        for node in model.graph.node:
            node.input[:] = ["swapped" if name == "pixels" else name for name in node.input]
        model.graph.node.insert(0, helper.make_node("Gather", ["pixels", "bgr"], ["swapped"], axis=3))

    change_graph(bundle, change)


def normalise_wrongly(bundle: Path) -> None:
    """Mean 0 and standard deviation 1 instead of the model's own."""

    def change(model: onnx.ModelProto) -> None:
        change_stored(model, "model.pixel_scale", lambda values: np.full_like(values, 1 / 255))
        change_stored(model, "model.pixel_shift", np.zeros_like)

    change_graph(bundle, change)


def resize_wrongly(bundle: Path) -> None:
    """Preprocessing facts that blur: another filter than the one that the model was trained with."""
    facts = Bundle.open(bundle).model.preprocessing.to_json()
    facts["interpolation"] = {"bilinear": "bicubic", "bicubic": "bilinear"}[facts["interpolation"]]
    seal(bundle, preprocessing=facts)


def as_fp16(bundle: Path, *, with_islands: bool) -> None:
    """The graph as FP16 computes it, its global vector 300 times as long before it is normalised.

    FP32 does not mind: only the direction counts. In FP16 the squares overflow, unless the norm is an FP32 island.
    """

    def change(model: onnx.ModelProto) -> onnx.ModelProto:
        scale_global_head(model)
        view = GraphView.open(model)
        fp16 = assign_fp16(view, ())
        if not with_islands:
            start = view.producers[GLOBAL_HEAD]
            fp16 |= {i for i in range(start, len(view.nodes)) if view.float_outputs(i)}
        converted: onnx.ModelProto = emulated(rewrite(view, frozenset(fp16)).model)
        return converted

    change_graph(bundle, change)


def scale_global_head(model: onnx.ModelProto) -> None:
    (node,) = (node for node in model.graph.node if GLOBAL_HEAD in node.output)
    stored = {tensor.name for tensor in model.graph.initializer}
    for name in node.input:
        if name in stored:
            change_stored(model, name, lambda values: 300 * values)


def ignore_words(bundle: Path) -> None:
    """A text branch that sees the length of a caption and none of its words."""
    model = onnx.load(bundle / "text.onnx")
    for node in model.graph.node:
        node.input[:] = ["no_ids" if name == "input_ids" else name for name in node.input]
    model.graph.initializer.append(numpy_helper.from_array(np.array(0, np.int32), "zero"))
    model.graph.node.insert(0, helper.make_node("Mul", ["input_ids", "zero"], ["no_ids"]))
    onnx.save(model, bundle / "text.onnx")
    seal(bundle)


REGRESSIONS: dict[str, Callable[[Path], None]] = {
    "weights perturbed": spoil_weights,
    "channels swapped": swap_channels,
    "wrong mean and std": normalise_wrongly,
    "island removed": lambda bundle: as_fp16(bundle, with_islands=False),
    "words ignored": ignore_words,
}


def test_the_unharmed_bundle_passes(bundle: Path, people: Path) -> None:
    done = succeed("verify", bundle, "--data", people, "--reference", SHIPPED)
    assert "48 pictures, 96 captions, with labels" in done.stdout
    assert "in PyTorch fp32 on the CPU" in done.stdout
    assert done.stdout.endswith("passed\n")
    (verdict,) = Bundle.open(bundle).gate
    assert verdict["passed"] is True
    assert verdict["metrics"]["R@1"]["difference"] == 0
    assert verdict["metrics"]["R@1"]["reference"] > 90
    assert verdict["agreement"]["overlap"] > 0.999
    assert verdict["thresholds"]["max_rank1_drop"] == 0.2


@pytest.mark.parametrize("name", REGRESSIONS)
def test_a_planted_regression_fails_with_labels(name: str, bundle: Path, people: Path) -> None:
    REGRESSIONS[name](bundle)
    done = fail(1, "verify", bundle, "--data", people, "--reference", SHIPPED)
    assert "Error: " in done.stderr
    (verdict,) = Bundle.open(bundle).gate
    assert verdict["passed"] is False
    assert verdict["failures"]
    assert done.stderr.count(verdict["failures"][0]) == 1
    assert verdict["data"]["labelled"] is True


@pytest.mark.parametrize("name", [*REGRESSIONS, "wrong resizing"])
def test_a_planted_regression_fails_on_the_golden_vectors(name: str, bundle: Path) -> None:
    {**REGRESSIONS, "wrong resizing": resize_wrongly}[name](bundle)
    fail(1, "verify", bundle)
    assert Bundle.open(bundle).gate[0]["reference"]["kind"] == "golden vectors"


def test_the_island_is_what_saves_fp16(bundle: Path, people: Path) -> None:
    as_fp16(bundle, with_islands=True)
    succeed("verify", bundle, "--data", people, "--reference", SHIPPED)


def test_pictures_without_labels_are_held_to_the_agreement(bundle: Path, people: Path) -> None:
    pictures = people / "imgs"
    alone = fail(2, "verify", bundle, pictures)
    assert "would be compared with themselves" in alone.stderr
    done = succeed("verify", bundle, pictures, "--reference", SHIPPED)
    assert "48 pictures, 4 captions, without labels" in done.stdout
    spoil_weights(bundle)
    harmed = fail(1, "verify", bundle, pictures, "--reference", SHIPPED, "--json", "--no-record")
    verdict = json.loads(harmed.stdout)
    assert verdict["agreement"]["overlap"] < 0.99
    assert (
        verdict["agreement"]["image"]["worst"][0]["cosine"] == verdict["agreement"]["image"]["cosine"]["min"] < 0.99
    )
    assert Bundle.open(bundle).gate[0]["passed"] is True  # the harmed one's was not to be recorded
    loose = run("verify", bundle, pictures, "--reference", SHIPPED, "--min-overlap", "0", "--min-cosine", "-1")
    assert loose.exit_code == 0, loose.output


def test_equal_pictures_and_captions_are_too_few(bundle: Path, people: Path, tmp_path: Path) -> None:
    picture = next((people / "imgs").rglob("*.jpg"))
    copies = tmp_path / "copies"
    copies.mkdir()
    for number in range(60):
        shutil.copy(picture, copies / f"{number}.jpg")
    listing = tmp_path / "list.csv"
    lines = [f"copies/{number}.jpg,a man with {number} bags,{number}" for number in range(60)]
    listing.write_text("\n".join(["path,caption,id", *lines]), encoding="utf-8")
    for data in ((copies,), ("--data", listing)):
        done = fail(2, "verify", bundle, *data, "--reference", SHIPPED)
        assert "60 pictures" in done.stderr
        assert "differ: 1, and the gate wants 16 or more" in done.stderr
    alike = tmp_path / "alike.csv"
    pictures = sorted((people / "imgs").rglob("*.jpg"))
    alike.write_text("\n".join(["path,caption,id", *(f"{p},a man,{p.stem}" for p in pictures)]), encoding="utf-8")
    done = fail(2, "verify", bundle, "--data", alike, "--reference", SHIPPED)
    assert "Too few captions of" in done.stderr


def test_a_list_without_ids_has_no_labels(bundle: Path, people: Path, tmp_path: Path) -> None:
    pictures = sorted((people / "imgs").rglob("*.jpg"))
    listing = tmp_path / "list.csv"
    lines = [f"{path},a man with {number} bags" for number, path in enumerate(pictures)]
    listing.write_text("\n".join(["path,caption", *lines]), encoding="utf-8")
    done = succeed("verify", bundle, "--data", listing, "--reference", SHIPPED)
    assert "48 pictures, 48 captions, without labels" in done.stdout
    assert "R@1" not in done.stdout
    told = succeed("eval", bundle, listing)
    assert "list has no id for every picture" in told.stderr
    some = [f"{line},{'p1' if number else ''}" for number, line in enumerate(lines)]
    listing.write_text("\n".join(["path,caption,id", *some]), encoding="utf-8")
    assert not read_dataset(listing, "test").labelled
    listing.write_text("\n".join(["path,caption,id", *(f"{line},p1" for line in lines)]), encoding="utf-8")
    assert read_dataset(listing, "test").labelled


def test_captions_of_a_list_are_its_queries(bundle: Path, people: Path, tmp_path: Path) -> None:
    pictures = sorted((people / "imgs").rglob("*.jpg"))[:3]
    listing = tmp_path / "list.jsonl"
    lines = [{"path": str(path), "caption": f"a man with {n} bags"} for n, path in enumerate(pictures)]
    listing.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    chosen = picture_set(Bundle.open(bundle), [str(listing)])
    assert chosen.captions == ("a man with 0 bags", "a man with 1 bags", "a man with 2 bags")
    assert chosen.pictures == tuple(pictures)
    assert chosen.labels is None


def test_another_engine_is_compared_with_the_fp32_graphs(bundle: Path, people: Path) -> None:
    """The FP32 graphs stand in for the other engine: what counts is which reference is taken, and its soundness."""
    opened = Bundle.open(bundle)
    data = picture_set(opened, [str(people / "imgs")])
    other = RunOptions(precision="int8")
    reference, _ = choose_reference(opened, other, None, data)
    assert reference.kind == "fp32 graphs"
    with Encoder.open(bundle) as candidate:
        assert hold_to_gate(candidate, other, reference, data, Thresholds()).verdict.passed
    spoil_weights(bundle)
    harmed = Bundle.open(bundle)
    broken, _ = choose_reference(harmed, other, None, data)
    with Encoder.open(bundle) as candidate, pytest.raises(VerificationError, match="image branch is no reference"):
        hold_to_gate(candidate, other, broken, data, Thresholds())


def test_verdicts_are_kept_in_the_bundle_and_told(bundle: Path) -> None:
    assert "gate" in json.loads(run("info", bundle, "--json").stdout)
    assert run("verify", bundle, "-q").exit_code == 0
    assert run("verify", bundle, "-q", "--min-cosine", "0.9").exit_code == 0
    (verdict,) = Bundle.open(bundle).gate  # the second replaced the first
    assert verdict["thresholds"]["min_cosine"] == 0.9
    assert run("verify", bundle, "-q", "--reference", SHIPPED).exit_code == 0
    told = json.loads(run("info", bundle, "--json", "--check").stdout)
    assert told["checked"] is True
    assert [line.split(",")[0] for line in told["gate"].values()] == ["passed"] * 2
    assert all("onnxruntime cpu fp32" in name for name in told["gate"])
    assert "golden vectors" in run("info", bundle).stdout


def test_a_bundle_that_cannot_be_written_says_so(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_self: Path, _target: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "replace", refuse)
    done = fail(1, "verify", bundle)
    assert "The verdict cannot be written" in done.stderr
    assert "passed" in done.stdout
    assert not list(bundle.glob("*.partial"))
    assert run("verify", bundle, "--no-record").exit_code == 0


def test_what_makes_no_sense_is_refused(bundle: Path, people: Path, tiny_checkpoint: Path) -> None:
    both = run("verify", bundle, people / "imgs", "--data", people)
    assert (both.exit_code, "exclude each other" in both.stderr) == (2, True)
    other = run("verify", bundle, "--reference", tiny_checkpoint)
    assert (other.exit_code, "was not exported from" in other.stderr) == (2, True)
    torch = run("verify", SHIPPED, "--backend", "torch")
    assert (torch.exit_code, "is a checkpoint" in torch.stderr) == (2, True)
    itself = run("verify", bundle, "--data", people)
    assert (itself.exit_code, "--reference CHECKPOINT" in itself.stderr) == (2, True)

"""Bundles that were damaged, or changed by somebody who writes the checksums anew: a sentence, or as before."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import fail
from mutations import damaged, swapped
from text_files import change_json

from tbps_infer.bundle import Bundle, file_facts
from tbps_infer.errors import BundleError, TbpsError
from tbps_infer.runners import RunOptions, open_runner
from tbps_infer.text import Tokenizer


@pytest.fixture
def copy(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def rehash(bundle: Path) -> None:
    """Write the checksums anew, as somebody does who wants a change to pass."""
    files = {name: {"bytes": f.bytes, "sha256": f.sha256} for name, f in file_facts(bundle).items()}
    change_json(bundle / "bundle.json", lambda values: values.update(files=files))


def use(path: Path) -> None:
    """Whatever is done with a bundle on the CPU."""
    bundle = Bundle.open(path)
    bundle.check_files()
    golden = bundle.golden()
    Tokenizer.from_bundle(bundle).encode(golden.captions)
    for branch in ("image", "text"):
        runner = open_runner(bundle, branch, RunOptions(threads=1))
        runner.close()


@pytest.mark.parametrize("count", [40, pytest.param(400, marks=pytest.mark.slow)])
@pytest.mark.parametrize("mutate", [damaged, swapped])
def test_facts_that_were_changed_are_refused_or_used(
    copy: Path, count: int, mutate: Callable[[bytes, random.Random], bytes]
) -> None:
    file = copy / "bundle.json"
    whole, rng = file.read_bytes(), random.Random(count)
    refused = 0
    for _ in range(count):
        file.write_bytes(mutate(whole, rng))
        try:
            bundle = Bundle.open(copy)
        except TbpsError as error:
            refused += 1
            assert error.message.endswith(".") and len(error.message) < 1000
        else:
            assert bundle.model == Bundle.open(copy).model
    assert refused > count // 3


@pytest.mark.parametrize("count", [40, pytest.param(400, marks=pytest.mark.slow)])
def test_golden_files_that_were_changed_are_refused_or_used(copy: Path, count: int) -> None:
    rng = random.Random(count)
    whole = {name: (copy / name).read_bytes() for name in ("golden/golden.json", "golden/vectors.npz")}
    refused = 0
    for number in range(count):
        for name, content in whole.items():
            (copy / name).write_bytes(content)
        name = sorted(whole)[number % 2]
        mutate = rng.choice((damaged, swapped)) if name.endswith(".json") else damaged
        (copy / name).write_bytes(mutate(whole[name], rng))
        rehash(copy)
        try:
            Bundle.open(copy).golden()
        except TbpsError:
            refused += 1
    assert refused > count // 2


@pytest.mark.parametrize("name", ["tokenizer.json", "image.onnx", "text.onnx", "golden/crops/1.png"])
@pytest.mark.parametrize("count", [6, pytest.param(60, marks=pytest.mark.slow)])
def test_files_that_were_changed_end_in_a_sentence(copy: Path, name: str, count: int) -> None:
    whole, rng = (copy / name).read_bytes(), random.Random(count)
    for _ in range(count):
        mutate = swapped if name.endswith(".json") and rng.random() < 0.5 else damaged
        (copy / name).write_bytes(mutate(whole, rng))
        with pytest.raises(BundleError):
            use(copy)
        rehash(copy)
        if name == "tokenizer.json":
            digest = file_facts(copy)[name].sha256
            change_json(copy / "bundle.json", lambda values: values["model"].update(tokenizer=digest))  # noqa: B023
            with pytest.raises(BundleError, match="changed since"):
                Bundle.open(copy)
            continue
        try:
            use(copy)
        except TbpsError as error:
            assert error.message


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.update(max_length=5),
        lambda model: model.update(caption_rule="pre_caption"),
        lambda model: model["preprocessing"].update(interpolation="bilinear"),
        lambda model: model["preprocessing"].update(mean=[0.5, 0.5, 0.5]),
        lambda model: model["config"].update(parts=3),
        lambda model: model.update(weights="0" * 64),
        lambda model: model.pop("weights"),
        lambda model: model.update(tokenizer="0" * 64),
    ],
)
def test_a_fact_cannot_be_changed_alone(copy: Path, change: Callable[[dict[str, Any]], object]) -> None:
    change_json(copy / "bundle.json", lambda values: change(values["model"]))
    with pytest.raises(BundleError, match=r"bundle\.json is not valid: .*(changed since|do not name)"):
        Bundle.open(copy)


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../outside", "golden/../../outside", "golden\\..\\x", "./image.onnx", "a\0b", ""]
)
def test_a_file_outside_of_the_bundle_is_refused(copy: Path, name: str) -> None:
    (copy.parent / "outside").write_text("x")
    change_json(copy / "bundle.json", lambda v: v["files"].update({name: {"bytes": 1, "sha256": "0" * 64}}))
    with pytest.raises(BundleError, match="is not the plain name of a file in the bundle"):
        Bundle.open(copy)


def test_a_link_out_of_the_bundle_is_refused(copy: Path) -> None:
    outside = copy.parent / "tokenizer.json"
    (copy / "tokenizer.json").rename(outside)
    (copy / "tokenizer.json").symlink_to(outside)
    with pytest.raises(BundleError, match="is a link that leads out of the bundle"):
        Bundle.open(copy)
    (copy / "tokenizer.json").unlink()
    shutil.copyfile(outside, copy / "kept.json")
    (copy / "tokenizer.json").symlink_to("kept.json")
    Bundle.open(copy)
    moved = copy.parent / "moved"
    moved.symlink_to(copy)
    Bundle.open(moved)


@pytest.mark.parametrize("name", ["../outside.png", "/etc/passwd", "crops/none.png"])
def test_a_golden_crop_outside_of_the_bundle_is_refused(copy: Path, name: str) -> None:
    change_json(copy / "golden/golden.json", lambda values: values["crops"].__setitem__(0, name))
    rehash(copy)
    with pytest.raises(BundleError, match="has no golden/"):
        Bundle.open(copy).golden()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda a: a.update(pixels=a["pixels"][:1]), "pixels"),
        (lambda a: a.update(input_ids=a["input_ids"].astype(np.int64)), "input_ids"),
        (lambda a: a.update(input_ids=-a["input_ids"]), "token ids"),
        (lambda a: a.update(attention_mask=a["attention_mask"][:, :-1]), "token ids"),
        (lambda a: a.update(attention_mask=0 * a["attention_mask"]), "token ids"),
        (lambda a: a.update(text_embeddings=a["text_embeddings"] * np.float32("nan")), "NaN"),
        (lambda a: a.pop("image_embeddings"), "no array"),
    ],
)
def test_golden_arrays_are_what_they_must_be(
    copy: Path, change: Callable[[dict[str, Any]], object], reason: str
) -> None:
    file = copy / "golden/vectors.npz"
    with np.load(file) as stored:
        arrays = dict(stored)
    change(arrays)
    np.savez(file, **arrays)
    rehash(copy)
    with pytest.raises(BundleError, match=reason):
        Bundle.open(copy).golden()


@pytest.mark.parametrize(
    "content", [b"[" * 200_000, b"1" * 5000, b'{"schema": Infinity}', b'{"a": 1, "a": 1}', b"\0"]
)
def test_the_command_line_says_it_in_a_sentence(copy: Path, content: bytes) -> None:
    (copy / "bundle.json").write_bytes(content)
    done = fail(1, "info", copy)
    assert isinstance(done.exception, SystemExit) and "bundle.json is not valid JSON" in done.output

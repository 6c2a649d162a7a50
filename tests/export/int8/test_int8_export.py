"""INT8 in a bundle: what it is calibrated and judged on, which layers stay FP32, when it is refused, how it runs."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from command_line import fail, succeed
from int8_bundles import with_int8, write_people
from PIL import Image

from tbps_infer.bundle import Bundle
from tbps_infer.encoder import Encoder
from tbps_infer.errors import BackendError, UsageError, VerificationError
from tbps_infer.export.int8.bundle_graphs import write_int8_graphs
from tbps_infer.export.int8.calibration import CALIBRATE_AT_MOST, Calibration, read_calibration
from tbps_infer.export.int8.options import Int8Options
from tbps_infer.export.options import ExportOptions
from tbps_infer.runners.options import RunOptions
from tbps_infer.tensorrt.engine_folder import EngineFolder
from tbps_infer.text import Tokenizer
from tbps_infer.verification.samples import synthetic_samples
from tbps_infer.verification.tolerances import LEAST_DISTINCT, Thresholds

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list of 52 synthetic people, with their pictures beside it."""
    return write_people(tmp_path_factory.mktemp("people"))


@pytest.fixture(scope="module")
def calibration(people: Path) -> Calibration:
    return read_calibration(people)


@pytest.fixture(scope="module")
def int8(tiny_bundle: Path, calibration: Calibration, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with INT8 graphs, judged without labels."""
    return with_int8(tiny_bundle, tmp_path_factory.mktemp("int8") / "bundle", Int8Options(calibration))[0]


def plant_outliers(path: Path) -> str:
    """Make some channels between two convolutions 1000 times as large and undo it in the second: FP32 is unmoved.

    Returns:
        The name of the second convolution's weight.
    """
    model = onnx.load(path)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    readers = {name: node for node in model.graph.node for name in node.input}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    first = convolutions[1]
    second = readers[readers[first.output[0]].output[0]]
    assert (readers[first.output[0]].op_type, second.op_type) == ("Relu", "Conv")
    factor = np.ones(tensors[first.input[1]].dims[0], np.float32)
    factor[::4] = 1000
    changes = {
        first.input[1]: factor[:, None, None, None],
        second.input[1]: 1 / factor[None, :, None, None],
        **dict.fromkeys(first.input[2:], factor),  # a bias, where there is one
    }
    for name, change in changes.items():
        values = onnx.numpy_helper.to_array(tensors[name]) * change
        tensors[name].CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float32), name))
    onnx.save(model, path)
    return str(second.name)


@pytest.mark.slow
def test_exporting_for_int8_engines_writes_int8_graphs_and_builds_from_them(
    tiny_checkpoint: Path, people: Path, tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt_rtx")
    done = succeed(
        *("export", tiny_checkpoint, "-o", tmp_path / "bundle", "--backend", "tensorrt-rtx"),
        *("--precision", "int8", "--calibration", people, "--int8-min-overlap", 0, "--int8-min-cosine", 0),
    )
    assert "INT8: image 39 layers" in done.stdout
    assert "2 engines" in done.stdout
    (folder,) = (tmp_path / "bundle" / "engines").iterdir()
    plans = EngineFolder.open(folder).facts.plans
    assert [plan.lengths for plan in plans] == [(), (32, 48, 64, 100)], "one text engine for four lengths"
    assert [len(plan.proofs) for plan in plans] == [1, 4]
    assert folder.name.endswith("-int8")
    assert "kernels use INT8 and" in done.stderr


def test_calibration_and_judgement_share_no_picture(calibration: Calibration) -> None:
    calibrate, judge = calibration.calibrate, calibration.judge
    assert (len(calibrate.pictures), len(judge.pictures)) == (35, 17)
    assert not set(calibrate.pictures) & set(judge.pictures)
    assert judge.labels is None, "the list has no column id"
    assert calibration.to_json()["calibrated_on"]["fingerprint"] == calibrate.fingerprint


def test_a_list_with_ids_divides_by_person_and_leaves_test_out(people: Path) -> None:
    rows = list(csv.DictReader(people.read_text(encoding="utf-8").splitlines()))
    file = people.parent / "labelled.csv"
    lines = [
        f'{row["path"]},"{row["text"]}",p{number // 2},{"test" if number == 51 else "train"}'
        for number, row in enumerate(rows)
    ]
    file.write_text("\n".join(["path,caption,id,split", *lines]), encoding="utf-8")
    found = read_calibration(file)
    assert found.judge.labels is not None
    numbers = [sorted(int(path.stem) for path in part.pictures) for part in (found.calibrate, found.judge)]
    # Every third of 26 persons of two pictures; the last picture is of the test split.
    assert numbers[1] == [number for number in range(51) if number // 2 % 3 == 2]
    assert numbers[0] == [number for number in range(51) if number // 2 % 3 != 2]
    assert list(np.bincount(found.judge.labels.image_ids)[[2, 5, 8]]) == [2, 2, 2]


def test_a_data_set_gives_its_train_and_val_splits(tmp_path: Path) -> None:
    from tbps_infer.data.synth import SynthOptions, write_dataset

    write_dataset(tmp_path / "data", SynthOptions(train=8, val=8, test=1))
    found = read_calibration(tmp_path / "data")
    assert (found.calibrate.name, found.judge.name) == ("synthetic pedestrians train", "synthetic pedestrians val")
    assert len(found.judge.pictures) >= LEAST_DISTINCT
    assert len(found.calibrate.pictures) <= CALIBRATE_AT_MOST
    assert found.judge.labels is not None


def test_too_few_people_are_refused(people: Path) -> None:
    file = people.parent / "few.csv"
    file.write_text("\n".join(people.read_text(encoding="utf-8").splitlines()[:12]), encoding="utf-8")
    with pytest.raises(UsageError, match="INT8 wants 16"):
        read_calibration(file)


def test_equal_pictures_count_once(tmp_path: Path) -> None:
    for number in range(60):
        Image.new("RGB", (32, 96)).save(tmp_path / f"{number}.{'bmp' if number % 2 else 'png'}")
    lines = [f"{number}.{'bmp' if number % 2 else 'png'},caption {number}" for number in range(60)]
    (tmp_path / "black.csv").write_text("\n".join(["path,caption", *lines]), encoding="utf-8")
    with pytest.raises(UsageError, match=r"pictures with captions differ in .*: 1, and INT8 wants 16") as caught:
        read_calibration(tmp_path / "black.csv")
    assert "48 different pictures or more" in str(caught.value.hint)


def test_a_copy_of_a_calibration_picture_judges_nothing(people: Path, tmp_path: Path) -> None:
    rows = list(csv.DictReader(people.read_text(encoding="utf-8").splitlines()))
    lines = [f'{people.parent / row["path"]},"{row["text"]}"' for row in rows]
    copy = tmp_path / "copy.png"
    shutil.copy(people.parent / rows[0]["path"], copy)
    lines[2] = f"{copy},the first person under another name"  # the third is held out
    file = tmp_path / "people.csv"
    file.write_text("\n".join(["path,caption", *lines]), encoding="utf-8")
    found = read_calibration(file)
    assert (len(found.calibrate.pictures), len(found.judge.pictures)) == (35, 16)
    assert copy not in found.judge.pictures


def test_equal_captions_count_once(people: Path) -> None:
    file = people.parent / "same.csv"
    file.write_text("path,caption\n" + "".join(f"{number}.png,a man\n" for number in range(52)), encoding="utf-8")
    with pytest.raises(UsageError, match=r"Too few captions differ in .*: 1, and"):
        read_calibration(file)


def test_a_picture_that_cannot_be_read_is_found_before_the_export(
    tiny_checkpoint: Path, people: Path, tmp_path: Path
) -> None:
    rows = people.read_text(encoding="utf-8").splitlines()
    (people.parent / "broken.png").write_bytes(b"no picture")
    file = people.parent / "with-broken.csv"
    file.write_text("\n".join([*rows, "broken.png,a man"]), encoding="utf-8")
    done = fail(
        *(1, "export", tiny_checkpoint, "-o", tmp_path / "bundle"), *("--precision", "int8", "--calibration", file)
    )
    assert "broken.png cannot be decoded" in done.stderr
    assert "Exporting" not in done.stderr
    assert "Calibrating" not in done.stderr


def test_the_graphs_are_recorded_and_run_like_fp32(int8: Path, tiny_bundle: Path, calibration: Calibration) -> None:
    bundle = Bundle.open(int8)
    assert {"image.int8.onnx", "text.int8.onnx"} <= set(bundle.files)
    for branch in ("image", "text"):
        assert bundle.files[f"{branch}.int8.onnx"].bytes < 0.5 * bundle.files[f"{branch}.onnx"].bytes
    report = bundle.verification["int8"]
    assert report["verdict"]["passed"]
    assert report["judged_on"]["fingerprint"] == calibration.judge.fingerprint
    assert report["text"]["int8_tables"] == 1
    crops = [picture for picture, _ in synthetic_samples()]
    captions = [caption for _, each in synthetic_samples() for caption in each]
    with Encoder.open(int8, RunOptions(precision="int8")) as found, Encoder.open(tiny_bundle) as wanted:
        for left, right in (
            (found.encode_images(crops), wanted.encode_images(crops)),
            (found.encode_texts(captions), wanted.encode_texts(captions)),
        ):
            cosines = (left * right).sum(1) / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1)
            assert 0.99 < cosines.min() < cosines.max() < 0.9999999, "near FP32, and not FP32"


def test_an_item_is_the_same_in_any_batch(int8: Path) -> None:
    crops = [picture for picture, _ in synthetic_samples()][:5]
    captions = [caption for _, each in synthetic_samples() for caption in each][:5]
    with Encoder.open(int8, RunOptions(precision="int8")) as encoder:
        together, alone = encoder.encode_images(crops), [encoder.encode_images([crop])[0] for crop in crops]
        np.testing.assert_allclose(together, alone, atol=1e-5)
        together, alone = encoder.encode_texts(captions), [encoder.encode_texts([text])[0] for text in captions]
        # A last bit of a LayerNorm that differs with the padding may round one activation the other way.
        cosines = (together * np.array(alone)).sum(1) / (np.linalg.norm(together, axis=1) ** 2)
        assert cosines.min() > 0.9995


@pytest.mark.slow
def test_layers_with_planted_outliers_stay_fp32(tiny_bundle: Path, calibration: Calibration, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, bundle)
    second = plant_outliers(bundle / "image.onnx")
    opened = Bundle.open(tiny_bundle)
    steps: list[str] = []
    report = write_int8_graphs(
        bundle, opened.model, Tokenizer.from_bundle(opened), Int8Options(calibration), steps.append
    )
    kept = report["image"]["kept_fp32"]
    assert f"Conv {second}" in kept
    assert len(kept) <= 3
    assert report["text"]["kept_fp32"] == {}
    assert report["verdict"]["passed"]
    assert any("loses too much" in step for step in steps)
    names = {node.name: node for node in onnx.load(bundle / "image.int8.onnx").graph.node}
    assert not names[second].input[1].endswith("_rounded")


def test_int8_that_loses_too_much_is_refused(tiny_bundle: Path, calibration: Calibration, tmp_path: Path) -> None:
    options = Int8Options(calibration, Thresholds(min_cosine=0.99999), most_kept=0)
    with pytest.raises(VerificationError, match=r"INT8 loses too much.*cosine with the reference falls to 0\.99"):
        with_int8(tiny_bundle, tmp_path / "bundle", options)
    assert not list((tmp_path / "bundle").glob("*.int8.onnx"))


def test_options_that_contradict_each_other(calibration: Calibration) -> None:
    with pytest.raises(UsageError, match="nothing to calibrate it on") as caught:
        ExportOptions(precisions=("int8",))
    assert "--calibration DATA" in str(caught.value.hint)
    with pytest.raises(UsageError, match="Calibration data was given for fp32"):
        ExportOptions(int8=Int8Options(calibration))
    with pytest.raises(UsageError, match="want 0 to 1"):
        Int8Options(calibration, most_kept=2)


def test_where_int8_means_nothing_it_is_refused(int8: Path, tiny_bundle: Path, tiny_checkpoint: Path) -> None:
    from tbps_infer.runners import open_runner

    with pytest.raises(BackendError, match="no INT8 kernels for a GPU"):
        open_runner(int8, "image", RunOptions(device="cuda", precision="int8"))
    with pytest.raises(BackendError, match="holds no int8 graph"):
        open_runner(tiny_bundle, "text", RunOptions(precision="int8"))
    with pytest.raises(BackendError, match="computes in fp32, and int8 was asked for"):
        open_runner(tiny_checkpoint, "text", RunOptions(backend="torch", precision="int8"))


def test_limits_without_calibration_are_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    done = fail(2, "export", tiny_checkpoint, "-o", tmp_path / "b", "--int8-max-rank1-drop", 1)
    assert "need --precision int8 and --calibration DATA: --int8-max-rank1-drop" in done.output


@pytest.mark.slow
def test_the_command_exports_embeds_and_searches_in_int8(
    tiny_checkpoint: Path, people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = succeed(
        *("export", tiny_checkpoint, "-o", "bundle", "--precision", "int8", "--calibration", people),
        *("--int8-min-overlap", 0.5),
    )
    assert "INT8: image" in done.stdout
    assert Bundle.open(tmp_path / "bundle").verification["int8"]["verdict"]["thresholds"]["min_overlap"] == 0.5
    succeed("embed", "bundle", people.parent, "-o", "gallery", "--precision", "int8")
    found = {
        precision: json.loads(
            succeed(
                "search", "gallery", "a man in red", "-k", 52, "--format", "json", "--precision", precision
            ).stdout
        )[0]["hits"]
        for precision in ("fp32", "int8")
    }
    scores = {name: {hit["path"]: hit["score"] for hit in hits} for name, hits in found.items()}
    differences = [abs(scores["int8"][path] - score) for path, score in scores["fp32"].items()]
    assert len(differences) == 52
    assert 0 < max(differences) < 0.1

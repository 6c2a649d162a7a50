"""`tbps bench accuracy`: its numbers against the library's own evaluation, its files, its page, its refusals."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from command_line import fail, run, succeed
from places import SHIPPED
from planted_faults import perturb_weights, seal

from tbps_infer.benchmarks.accuracy import AccuracyResults, EngineAccuracy, list_engines
from tbps_infer.benchmarks.accuracy_report import accuracy_csv, accuracy_document, accuracy_page
from tbps_infer.benchmarks.document import markdown_text
from tbps_infer.benchmarks.environment import Environment
from tbps_infer.data.readers import read_dataset
from tbps_infer.encoder import Encoder
from tbps_infer.evaluation.evaluate import evaluate
from tbps_infer.layout import Segment, VectorLayout
from tbps_infer.runners import RunOptions
from tbps_infer.verification.agreement import Embedded, agreement
from tbps_infer.verification.differences import MetricDifference
from tbps_infer.verification.evaluation_set import EvaluationSet, labelled_set


@pytest.fixture(scope="module")
def harmed(shipped_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose image branch lost much of its accuracy, sealed as if it had been exported so."""
    bundle = Path(shutil.copytree(shipped_bundle, tmp_path_factory.mktemp("accuracy") / "bundle"))
    perturb_weights(bundle / "image.onnx")
    seal(bundle)
    return bundle


def test_every_file_carries_what_the_evaluation_gives(harmed: Path, people: Path, tmp_path: Path) -> None:
    files = {form: tmp_path / "reports" / f"accuracy.{form}" for form in ("json", "csv", "markdown", "html")}
    done = succeed(
        *("bench", "accuracy", harmed, "--data", people, "--reference", SHIPPED, "--device", "cpu"),
        *(argument for form, path in files.items() for argument in (f"--{form}", path)),
    )
    split = read_dataset(people, "test")
    wanted = {}
    for name, path, options in (("torch", SHIPPED, RunOptions("torch")), ("onnxruntime", harmed, RunOptions())):
        with Encoder.open(path, options) as encoder:
            wanted[name] = evaluate(encoder.encode_texts, encoder.encode_images, split).text_to_image.headline()
    told = json.loads(files["json"].read_text(encoding="utf-8"))
    assert [engine["is_reference"] for engine in told["engines"]] == [True, False]
    for engine in told["engines"]:
        assert engine["metrics"] == pytest.approx(wanted[engine["backend"]])
        assert (engine["device"], engine["precision"]) == ("cpu", "fp32")
    drop = told["engines"][1]["differences"]["R@1"]
    assert drop["difference"] == pytest.approx(wanted["onnxruntime"]["R@1"] - wanted["torch"]["R@1"])
    assert drop["interval"][0] <= drop["difference"] <= drop["interval"][1] < 0
    assert told["engines"][1]["agreement"]["text"]["cosine"]["min"] > 0.99999  # only pictures were harmed
    assert told["engines"][1]["agreement"]["image"]["cosine"]["min"] < 0.9
    assert {each["engine"] for each in told["not_run"]} == {"onnxruntime cpu fp16", "onnxruntime cpu int8"}
    rows = list(csv.DictReader(files["csv"].read_text(encoding="utf-8").splitlines()))
    assert [row["reference"] for row in rows] == ["yes", "no"]
    assert float(rows[1]["mAP"]) == pytest.approx(wanted["onnxruntime"]["mAP"], abs=1e-3)
    for text in (done.stdout, files["markdown"].read_text(encoding="utf-8")):
        assert f"{wanted['torch']['R@1']:.2f}" in text
        assert f"{drop['difference']:+.2f}" in text
        assert "holds no fp16 graph" in text
    page = files["html"].read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64,") == 20  # ten pictures, and ten captions' pictures
    assert not re.search(r'(?:src|href)="(?!data:)', page)
    worst = told["engines"][1]["agreement"]["image"]["worst"]
    places = [
        page.index(f"<b>{item['cosine']:.6f}</b><small>{split.pictures[item['index']].path.name}") for item in worst
    ]
    assert len(places) == 10
    assert places == sorted(places)


def test_without_a_checkpoint_the_fp32_graphs_are_the_reference(shipped_bundle: Path, people: Path) -> None:
    done = fail(1, "bench", "accuracy", shipped_bundle, "--data", people, "--device", "cpu")
    assert "was compared: onnxruntime cpu fp16:" in done.stderr
    own = run("bench", "accuracy", shipped_bundle, "--data", people, "--device", "cpu", "--precision", "fp32")
    assert "none was asked for but the reference itself" in own.stderr


def test_a_damaged_bundle_is_refused(shipped_bundle: Path, people: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(shipped_bundle, tmp_path / "bundle"))
    (bundle / "text.onnx").write_bytes((bundle / "text.onnx").read_bytes()[:-1])
    done = fail(1, "bench", "accuracy", bundle, "--data", people, "--reference", SHIPPED)
    assert "text.onnx has" in done.stderr


def test_engines_are_listed_for_devices_that_they_run_on() -> None:
    listed = list(list_engines(("onnxruntime", "tensorrt"), ("cpu", "cuda:0"), ("fp32", "fp16"), 2))
    assert [(run.backend, run.device, run.precision) for run in listed] == [
        ("onnxruntime", "cpu", "fp32"),
        ("onnxruntime", "cpu", "fp16"),
        ("onnxruntime", "cuda:0", "fp32"),
        ("onnxruntime", "cuda:0", "fp16"),
        ("tensorrt", "cuda:0", "fp32"),
        ("tensorrt", "cuda:0", "fp16"),
    ]
    assert {run.threads for run in listed} == {2}


@pytest.fixture
def results(tmp_path: Path) -> AccuracyResults:
    """Two engines by hand; the picture is not there any more, and a caption that would break a page."""
    layout = VectorLayout((Segment("global", 2),))
    reference = Embedded(np.array([[1, 0]], np.float32), np.array([[0, 1]], np.float32))
    found = Embedded(np.array([[0.6, 0.8]], np.float32), np.array([[0, 1]], np.float32))
    names = ("R@1", "R@5", "R@10", "mAP", "mAP (trapezoid)", "mINP")
    differences = tuple(MetricDifference(name, 50.0, 49.0, -2.0, 0.5) for name in names)
    engines = (
        EngineAccuracy(RunOptions("torch"), "PyTorch", dict.fromkeys(names, 50.0)),
        EngineAccuracy(
            RunOptions(precision="int8"),
            "ORT",
            dict.fromkeys(names, 49.0),
            differences,
            agreement(reference, found, layout),
        ),
    )
    return AccuracyResults(
        data=EvaluationSet("people test", (tmp_path / "gone.jpg",), ("a <b>bold</b> man",)),
        reference="a checkpoint",
        engines=engines,
        not_run=(("x cpu fp16", "no kernels."), ("y cpu fp16", "no kernels.")),
        environment=Environment({"cpu": "Abacus", "usable_cores": 1, "packages": {"numpy": "9"}}, {}),
        command="tbps bench accuracy",
    )


def test_tables_csv_markdown_and_page_of_known_results(results: AccuracyResults) -> None:
    metrics, differences, cosines, rankings = accuracy_document(results).tables
    assert metrics.rows[1][:4] == ("onnxruntime", "cpu", "int8", "49.00")
    assert differences.rows[0] == ("onnxruntime", "cpu", "int8", "R@1", "50.00", "49.00", "-1.00", "-2.00 to +0.50")
    assert [row[3:] for row in cosines.rows] == [
        ("image", "whole", "0.600000", "0.600000", "0.600000"),
        ("text", "whole", "1.000000", "1.000000", "1.000000"),
    ]
    assert rankings.rows[0][3:] == ("1", "100.00", "nan")
    rows = list(csv.DictReader(accuracy_csv(results).splitlines()))
    assert (rows[0]["R@1 difference"], rows[1]["R@1 difference"], rows[1]["mINP high"]) == ("", "-1", "0.5")
    assert float(rows[1]["image cosine min"]) == pytest.approx(0.6)
    assert "x cpu fp16, y cpu fp16: no kernels." in markdown_text(accuracy_document(results))
    page = accuracy_page(results, np.array([0]))
    assert "a &lt;b&gt;bold&lt;/b&gt; man" in page
    assert page.count('<span class="gone">') == 2


def test_labelled_sets_know_who_is_who(people: Path) -> None:
    split = read_dataset(people, "test")
    data = labelled_set(split)
    assert data.labels is not None
    assert len(data.pictures) == len(data.labels.image_ids) == 48
    assert data.captions == split.captions
    owners = [split.pictures[i].identity for i in split.caption_picture.tolist()]
    assert data.labels.text_ids.tolist() == owners
    moved = EvaluationSet("other", data.pictures, data.captions, data.labels)
    assert moved.fingerprint == data.fingerprint
    fewer = EvaluationSet("other", data.pictures, data.captions[:-1], data.labels)
    assert fewer.fingerprint != data.fingerprint


def test_options_have_variables_too(shipped_bundle: Path) -> None:
    done = fail(1, "bench", "accuracy", shipped_bundle, env={"TBPS_BENCH_ACCURACY_DATA": str(shipped_bundle)})
    assert "annotation" in done.stderr

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
from tbps_infer.benchmarks.document import Document, TextTable, latex_text, markdown_text
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


def test_golden_vectors_are_the_reference_without_data(harmed: Path, shipped_bundle: Path, tmp_path: Path) -> None:
    page, table = tmp_path / "page.html", tmp_path / "table.csv"
    done = succeed(
        *("bench", "accuracy", shipped_bundle, "--device", "cpu", "--json", "-", "--csv", table, "--html", page)
    )
    told = json.loads(done.stdout)
    assert told["reference"] == "the golden vectors that PyTorch wrote at export"
    assert [(each["backend"], each["metrics"], each["differences"]) for each in told["engines"]] == [
        ("torch", {}, {}),
        ("onnxruntime", {}, {}),
    ]
    assert told["engines"][1]["agreement"]["image"]["cosine"]["min"] > 0.999999
    rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
    assert [row["reference"] for row in rows] == ["yes", "no"]
    assert float(rows[1]["image cosine min"]) > 0.999999
    assert page.read_text(encoding="utf-8").count("data:image/jpeg;base64,") == 4  # of pictures; captions have none
    shown = succeed("bench", "accuracy", harmed, "--device", "cpu")
    assert "Text to image" not in shown.stdout
    assert "Cosine with the reference" in shown.stdout


def test_nothing_to_compare_says_what_to_add(shipped_bundle: Path, people: Path) -> None:
    done = fail(1, "bench", "accuracy", shipped_bundle, "--data", people, "--device", "cpu")
    hint = " ".join(done.stderr.split())
    for way in ("--reference CHECKPOINT", "without --data", "tbps export with --precision fp16", "tbps build"):
        assert way in hint


def test_two_models_are_compared_by_a_paired_test(harmed: Path, people: Path, tmp_path: Path) -> None:
    files = {form: tmp_path / f"two.{form}" for form in ("csv", "latex", "html")}
    done = succeed(
        *("bench", "accuracy", SHIPPED, harmed, "--data", people, "--json", "-"),
        *(argument for form, path in files.items() for argument in (f"--{form}", path)),
    )
    told = json.loads(done.stdout)
    split = read_dataset(people, "test")
    for side, path, options in (("reference", SHIPPED, RunOptions("torch")), ("candidate", harmed, RunOptions())):
        with Encoder.open(path, options) as encoder:
            wanted = evaluate(encoder.encode_texts, encoder.encode_images, split).text_to_image.headline()
        assert {name: each[side] for name, each in told["differences"].items()} == pytest.approx(wanted)
    drop = told["differences"]["R@1"]
    assert drop["interval"][0] <= drop["difference"] <= drop["interval"][1] < 0
    assert [model["path"] for model in told["models"]] == [str(SHIPPED), str(harmed)]
    rows = {row["metric"]: row for row in csv.DictReader(files["csv"].read_text(encoding="utf-8").splitlines())}
    assert float(rows["mAP"]["difference"]) == pytest.approx(told["differences"]["mAP"]["difference"])
    latex = files["latex"].read_text(encoding="utf-8")
    assert r"R@1 & " in latex
    assert latex.count(r"\toprule") == latex.count(r"\bottomrule") == 1
    assert "Two models side by side" in files["html"].read_text(encoding="utf-8")


def test_a_run_stands_for_its_best_checkpoint_and_equals_itself(people: Path, tmp_path: Path) -> None:
    run_folder = tmp_path / "run"
    shutil.copytree(SHIPPED, run_folder / "best")
    (run_folder / "run.json").write_text("{}", encoding="utf-8")
    shown = succeed("bench", "accuracy", run_folder, SHIPPED, "--data", people).stdout
    (row,) = (line.split() for line in shown.splitlines() if line.startswith("R@1 "))
    assert row[1] == row[2]
    assert row[3:] == ["+0.00", "+0.00", "to", "+0.00"]


def test_two_models_that_cannot_be_compared(shipped_bundle: Path, people: Path, tmp_path: Path) -> None:
    two = ("bench", "accuracy", shipped_bundle, shipped_bundle)
    assert "give --data DATASET and no --reference" in fail(2, *two).stderr
    more = fail(2, *two, "--data", people, "--precision", "fp32", "--precision", "int8")
    assert "give one --precision" in more.stderr
    picture = next((people / "imgs").rglob("*.jpg"))
    (tmp_path / "list.csv").write_text(f"path,caption\n{picture},a man\n", encoding="utf-8")
    assert "the set has none" in fail(1, *two, "--data", tmp_path / "list.csv").stderr
    assert "holds no int8 graph" in fail(1, *two, "--data", people, "--precision", "int8").stderr


def test_latex_escapes_what_latex_reads_as_commands() -> None:
    table = TextTable("50 % & more", ("a_b", "#"), (("x^2 {~} \\", "-0.50 to +1.25"), ("e-4 $5", "1")))
    text = latex_text(Document("R", ("fact\nof two lines",), (table, TextTable("none", ("a",), ())), "", (), "note"))
    assert "% fact of two lines\n% note\n" in text
    assert r"\caption{50 \% \& more}" in text
    assert r"\begin{tabular}{lr}" in text
    assert "a\\_b & \\# \\\\\n\\midrule\n" in text
    assert r"x\textasciicircum{}2 \{\textasciitilde{}\} \textbackslash{} & $-$0.50 to $+$1.25 \\" in text
    assert r"e-4 \$5 & 1 \\" in text
    assert "none" not in text


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

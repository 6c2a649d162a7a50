"""The command line from outside: every command, its formats, its exit codes, and what it says on errors."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import pytest
from command_line import fail, run, succeed

from tbps_infer.cli.main import COMMANDS, cli
from tbps_infer.data.synth import SynthOptions, write_dataset, write_people
from tbps_infer.gallery import Gallery


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures") / "people"
    write_people(folder, 6, seed=3)
    return folder


@pytest.fixture(scope="module")
def gallery(tiny_bundle: Path, people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("galleries")
    rows = [[str(f), int(f.name[:4]), f.name[5:10], i] for i, f in enumerate(sorted(people.glob("*.jpg")))]
    listing = folder / "list.csv"
    with listing.open("w", newline="") as stream:
        csv.writer(stream).writerows([["path", "id", "camera", "shelf"], *rows])
    done = succeed("embed", tiny_bundle, listing, "-o", folder / "gallery", "-b", "8")
    assert f"{len(rows)} pictures = {len(rows)} embedded + 0 unchanged + 0 rejected" in done.stdout
    return folder / "gallery"


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_has_an_example_that_can_be_pasted(name: str) -> None:
    done = succeed(name, "-h")
    assert done.stdout.startswith(f"Usage: cli {name}")
    if name != "data":
        assert f"  tbps {name} " in done.stdout


NESTED = {
    "data": ("synth", "info"),
    "bench": ("latency", "accuracy"),
    "gallery": ("index", "rm", "compact", "merge", "verify", "export"),
}


@pytest.mark.parametrize(("group", "name"), [(group, name) for group, names in NESTED.items() for name in names])
def test_nested_help_has_one_too(group: str, name: str) -> None:
    assert f"  tbps {group} {name} " in run(group, name, "-h").stdout


def test_the_groups_help_lists_every_command_and_imports_none() -> None:
    code = (
        "import sys; from tbps_infer.cli.main import cli\n"
        "for name in ('torch', 'transformers', 'onnx', 'onnxruntime', 'numpy', 'rich'): sys.modules[name] = None\n"
        "cli.main(['--help'], prog_name='tbps')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name, (_, line) in COMMANDS.items():
        assert f"{name}  " in done.stdout
        assert line in done.stdout


def test_commands_do_what_their_table_says() -> None:
    for name, (_, line) in COMMANDS.items():
        command = cli.get_command(cli.make_context("tbps", ["--help"], resilient_parsing=True), name)
        assert command is not None
        assert command.name == name
        assert line.endswith(".")


def test_export_embed_search_info(tiny_checkpoint: Path, people: Path, tmp_path: Path) -> None:
    bundle, gallery = tmp_path / "bundle", tmp_path / "gallery"
    done = succeed("export", tiny_checkpoint, "-o", bundle)
    assert "verified against PyTorch" in done.stdout
    assert "Exporting the text branch" in done.stderr
    assert run("embed", bundle, people, "-o", gallery, "-q").exit_code == 0
    again = run("embed", bundle, people, "-o", gallery)
    assert "0 embedded + 18 unchanged + 0 rejected" in again.stdout
    hits = run("search", gallery, "a man in a red coat", "-k", "3", "--format", "json")
    assert len(json.loads(hits.stdout)[0]["hits"]) == 3
    for path, kind in ((tiny_checkpoint, "checkpoint"), (bundle, "bundle"), (gallery, "gallery")):
        facts = json.loads(run("info", path, "--json").stdout)
        assert (facts["kind"], facts["dim"]) == (kind, 832)
        assert facts["fingerprint"][:12] in run("info", path).stdout
    assert json.loads(run("info", bundle, "--json", "--check").stdout)["checked"] is True
    assert json.loads(run("info", gallery, "--json", "--check").stdout)["segments_checked"] >= 1


def test_info_finds_an_altered_bundle(tiny_bundle: Path, tmp_path: Path) -> None:
    import shutil

    copy = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    data = bytearray((copy / "text.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (copy / "text.onnx").write_bytes(data)
    assert run("info", copy).exit_code == 0
    done = fail(1, "info", copy, "--check")
    assert "text.onnx is not the file this bundle was written with" in done.stderr


def _rows(form: str, text: str) -> list[dict[str, Any]]:
    """Hits of any format in one shape: query id, rank, score, path."""
    if form == "csv":
        return [
            {"id": row["query_id"], "rank": int(row["rank"]), "score": float(row["score"]), "path": row["path"]}
            for row in csv.DictReader(text.splitlines())
        ]
    results = json.loads(text) if form == "json" else [json.loads(line) for line in text.splitlines()]
    return [
        {"id": result["id"], **{k: h[k] for k in ("rank", "score", "path")}}
        for result in results
        for h in result["hits"]
    ]


@pytest.mark.parametrize("form", ["json", "jsonl", "csv"])
def test_formats_agree_with_the_library(gallery: Path, tiny_bundle: Path, form: str) -> None:
    from tbps_infer.encoder import Encoder

    texts = ["a woman with a backpack", "a man, in “quotes” & <tags>, with a comma"]
    done = succeed("search", gallery, *texts, "-k", "4", "--format", form)
    with Encoder.open(tiny_bundle) as encoder, Gallery.open(gallery) as opened:
        want = opened.search(encoder.encode_texts(texts), k=4)
    got = _rows(form, done.stdout)
    assert [(row["id"], row["rank"]) for row in got] == [(str(q), r) for q in (1, 2) for r in (1, 2, 3, 4)]
    for row, hit in zip(got, [hit for hits in want for hit in hits], strict=True):
        assert row["path"] == str(hit.path)
        assert row["score"] == pytest.approx(hit.score, abs=1e-5)


def test_json_hits_carry_their_split_and_metadata(gallery: Path) -> None:
    hit = json.loads(run("search", gallery, "a man", "--format", "jsonl").stdout)["hits"][0]
    assert list(hit["split"]) == ["global", "coarse", *(f"fine.{k}" for k in range(6))]
    assert sum(hit["split"].values()) == pytest.approx(hit["score"], abs=1e-5)
    assert set(hit["metadata"]) == {"id", "camera", "shelf"}


def test_table_is_aligned_plain_text(gallery: Path) -> None:
    lines = run("search", gallery, "a man", "-k", "12").stdout.splitlines()
    assert lines[0] == "a man"
    assert lines[1].split() == ["rank", "score", "global", "coarse", "fine", "picture", "metadata"]
    assert [line.split()[0] for line in lines[2:]] == [str(rank) for rank in range(1, 13)]
    column = lines[1].index("picture")
    assert all(line[column - 1] == " " and line[column:].startswith("/") for line in lines[2:])
    assert not any(line.endswith(" ") or "\x1b" in line for line in lines)


def test_filters(gallery: Path) -> None:
    hits = json.loads(run("search", gallery, "x", "--where", "shelf < 4 and id = 1", "--format", "jsonl").stdout)[
        "hits"
    ]
    assert {hit["metadata"]["shelf"] for hit in hits} == {0, 1, 2}
    cameras = {json.loads(run("search", gallery, "x", "--format", "jsonl").stdout)["hits"][0]["metadata"]["camera"]}
    camera = cameras.pop()
    found = json.loads(run("search", gallery, "x", "--camera", camera, "--format", "jsonl", "-k", "99").stdout)[
        "hits"
    ]
    assert {hit["metadata"]["camera"] for hit in found} == {camera}
    done = fail(1, "search", gallery, "x", "--where", "no_such_column = 1")
    assert "no_such_column" in done.stderr
    assert "Hint: " in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("verify", "{bundle}", "--max-map-drop", "inf"),
        ("verify", "{bundle}", "--min-cosine", "nan"),
        ("serve", "{gallery}", "--rate", "nan"),
        ("search", "{gallery}", "a man", "--min-score", "nan"),
        ("embed", "{bundle}", "{gallery}", "-o", "g", "--watch", "--poll", "inf"),
        ("train", "{gallery}", "-o", "run", "--warmup-epochs", "nan"),
        ("bench", "latency", "{bundle}", "--batches", "0,1"),
    ],
    ids=lambda arguments: " ".join(arguments),
)
def test_numbers_that_mean_nothing_are_refused(gallery: Path, tiny_bundle: Path, arguments: Sequence[str]) -> None:
    given = [each.format(bundle=tiny_bundle, gallery=gallery) for each in arguments]
    assert f"Invalid value for '{given[-2]}'" in fail(2, *given).stderr
    json.loads((tiny_bundle / "bundle.json").read_text())


def test_hits_of_another_gallery_are_not_removed(gallery: Path, tmp_path: Path) -> None:
    hits = tmp_path / "hits.csv"
    hits.write_text(run("search", gallery, "a man", "-k", "2", "--format", "csv").stdout)
    assert "2 of 18 records" in succeed("gallery", "rm", gallery, "--from", hits, "--dry-run").stdout
    lines = hits.with_suffix(".jsonl")
    lines.write_text(run("search", gallery, "a man", "-k", "2", "--format", "jsonl").stdout)
    assert "2 of 18 records" in succeed("gallery", "rm", gallery, "--from", lines, "--dry-run").stdout
    lines.write_text(lines.read_text().replace(".jpg", ".jpeg"))
    assert "another gallery" in fail(2, "gallery", "rm", gallery, "--from", lines).stderr


def test_an_image_finds_itself(gallery: Path, people: Path) -> None:
    picture = sorted(people.glob("*.jpg"))[5]
    result = json.loads(run("search", gallery, "--image", picture, "--format", "jsonl").stdout)
    assert result["id"] == picture.name
    assert result["hits"][0]["path"] == str(picture)
    with Gallery.open(gallery) as opened:
        assert result["hits"][0]["score"] == pytest.approx(opened.model.layout.squared_norm, abs=5e-3)


def test_thousands_of_queries_come_back_in_order(gallery: Path, tmp_path: Path) -> None:
    file = tmp_path / "queries.jsonl"
    lines = [{"id": f"q{i}", "text": "a man " + "with a bag " * (i % 7)} for i in range(1500)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = run("search", gallery, "--queries", file, "-k", "1", "--format", "jsonl", "-b", "64")
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert [result["id"] for result in results] == [f"q{i}" for i in range(1500)]
    first = {result["query"]: result["hits"] for result in results[:7]}
    assert all(result["hits"] == first[result["query"]] for result in results)


@pytest.mark.parametrize(
    ("name", "text", "ids"),
    [
        ("q.txt", "a man\n\na woman\n", ["1", "3"]),
        ("q.csv", "id,text\nx,a man\n,a woman\n", ["x", "3"]),
        ("q.jsonl", '{"text": "a man", "id": 7}\n{"text": "a woman"}\n', ["7", "2"]),
    ],
)
def test_query_files(gallery: Path, tmp_path: Path, name: str, text: str, ids: list[str]) -> None:
    (tmp_path / name).write_text(text)
    done = run("search", gallery, "--queries", tmp_path / name, "--format", "jsonl")
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert [result["id"] for result in results] == ids
    assert [result["query"] for result in results] == ["a man", "a woman"]


def test_standard_input_takes_sentences_and_objects(gallery: Path) -> None:
    stdin = 'a man\n{"text": "a woman", "id": "w", "person": 1}\n'
    done = run("search", gallery, "--queries", "-", "--format", "jsonl", stdin=stdin)
    assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == ["1", "w"]
    table = run("search", gallery, "--queries", "-", "-k", "18", stdin=stdin).stdout
    assert table.count("✓") == 3


def test_whoever_writes_a_line_has_an_answer_before_the_next(gallery: Path) -> None:
    command = [sys.executable, "-m", "tbps_infer.cli.main", "search", str(gallery), "--queries", "-"]
    with subprocess.Popen(
        [*command, "--format", "jsonl"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        for number, sentence in enumerate(("a man", "a woman"), start=1):
            process.stdin.write(sentence + "\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["id"] == str(number)
        process.stdin.close()
        assert process.stdout.read() == ""


def test_an_error_in_standard_input_comes_after_the_answers_before_it(gallery: Path) -> None:
    done = run("search", gallery, "--queries", "-", "--format", "jsonl", stdin="a man\n{\n")
    assert (done.exit_code, len(done.stdout.splitlines())) == (2, 1)
    assert "-, line 2: this is not valid JSON" in done.stderr


def test_html_beside_the_results(gallery: Path, tmp_path: Path) -> None:
    done = succeed("search", gallery, "a man", "<script>alert(1)</script>", "--html", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 20
    assert "<script>" not in page
    assert f"Wrote {tmp_path / 'page.html'}" in done.stderr
    assert [f.name for f in tmp_path.iterdir()] == ["page.html"]


def test_rejects_are_told_and_strict_makes_them_an_error(tiny_bundle: Path, people: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(12):
        (tmp_path / "in" / f"bad{number:02}.jpg").write_bytes(b"no picture")
    (tmp_path / "in" / "good.jpg").write_bytes(next(people.glob("*.jpg")).read_bytes())
    done = succeed("embed", tiny_bundle, tmp_path / "in", "-o", tmp_path / "gallery")
    assert "13 pictures = 1 embedded + 0 unchanged + 12 rejected" in done.stdout
    assert done.stderr.count("  rejected ") == 10
    assert "and 2 more" in done.stderr
    assert run("embed", tiny_bundle, tmp_path / "in", "-o", tmp_path / "gallery", "--strict").exit_code == 1
    assert len(json.loads(run("info", tmp_path / "gallery", "--json").stdout)["rejected"]) == 12


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["search", "GALLERY"], 2, "Give a TEXT"),
        (["search", "GALLERY", "  "], 2, "words"),
        (["search", "nowhere", "x"], 2, "does not exist"),
        (["search", ".", "x"], 1, "Error: "),
        (["search", "GALLERY", "x", "-k", "0"], 2, "0 is not in the range"),
        (["search", "GALLERY", "x", "--fp16"], 1, "fp16"),
        (["search", "GALLERY", "x", "--fp16", "--precision", "int8"], 2, "exclude each other"),
        (["search", "GALLERY", "x", "--device", "tpu"], 2, "The device 'tpu' is not known"),
        (["search", "GALLERY", "x", "--backend", "torch"], 2, "torch"),
        (["search", "GALLERY", "--queries", "none.txt"], 2, "cannot be read"),
        (["info", "."], 1, "Error: "),
        (["export", "CHECKPOINT", "-o", "b", "--precision", "int8"], 2, "int8"),
        (["export", "CHECKPOINT", "-o", "b", "--opset", "9"], 2, "opset is 9"),
        (["embed", "BUNDLE", "nothing-*.jpg", "-o", "g"], 1, "nothing-"),
        (["nonsense"], 2, "No such command"),
    ],
)
def test_errors_are_sentences_with_exit_codes(
    gallery: Path,
    tiny_bundle: Path,
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: Sequence[str],
    code: int,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    places = {"GALLERY": gallery, "BUNDLE": tiny_bundle, "CHECKPOINT": tiny_checkpoint}
    done = run(*(places.get(argument, argument) for argument in arguments))
    assert done.exit_code == code, done.output
    assert words in done.stderr
    assert "Traceback" not in done.output
    assert not done.stdout
    assert not list(tmp_path.iterdir())


def test_a_gallery_of_another_model_is_refused(gallery: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    from tbps_infer.reference.checkpoint import load_checkpoint, save_checkpoint

    start = load_checkpoint(tiny_checkpoint)
    start.model.part_tokens.add_(0.5)
    other = save_checkpoint(tmp_path / "other", start.model, start.tokenizer_path.read_text())
    done = fail(1, "search", gallery, "x", "--bundle", other, "--backend", "torch")
    assert "was embedded by the model" in done.stderr
    assert "Hint: " in done.stderr


def test_a_bug_keeps_its_traceback(gallery: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Gallery, "search_with_report", lambda *_a, **_k: 1 / 0)
    done = run("search", gallery, "x")
    assert isinstance(done.exception, ZeroDivisionError)


def test_every_option_is_an_environment_variable(gallery: Path) -> None:
    env = {"TBPS_SEARCH_TOP_K": "2", "TBPS_SEARCH_FORMAT": "jsonl"}
    assert len(json.loads(run("search", gallery, "x", env=env).stdout)["hits"]) == 2
    assert "not in the range" in run("search", gallery, "x", env={"TBPS_SEARCH_TOP_K": "0"}).stderr
    for name in COMMANDS:
        command = cli.get_command(cli.make_context("tbps", ["-h"], resilient_parsing=True), name)
        assert command is not None
        children = command.commands.values() if isinstance(command, click.Group) else [command]
        for child in children:
            for option in (p for p in child.params if isinstance(p, click.Option)):
                assert isinstance(option.envvar, str)
                assert option.envvar.startswith(f"TBPS_{name.upper()}_")


def test_the_aliases_are_the_commands(gallery: Path) -> None:
    scripts = Path(sys.executable).parent
    environment = {**os.environ, "TBPS_SEARCH_TOP_K": "1"}
    done = subprocess.run(
        [scripts / "tbps-search", gallery, "a man", "--format", "jsonl"],
        capture_output=True, text=True, env=environment, check=True,
    )  # fmt: skip
    assert len(json.loads(done.stdout)["hits"]) == 1
    done = subprocess.run([scripts / "tbps-export", "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: tbps-export ")


@pytest.mark.parametrize("form", ["table", "json", "jsonl", "csv"])
def test_a_closed_pipe_is_no_error(gallery: Path, tmp_path: Path, form: str) -> None:
    # More than a pipe holds (64 KiB), so that writing goes on after the reader has gone.
    (tmp_path / "q.txt").write_text("a man with a bag\n" * 300)
    tbps = Path(sys.executable).parent / "tbps"
    command = f"{tbps} search {gallery} --queries {tmp_path / 'q.txt'} --format {form} | head -c 10"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("arguments", [["--help"], ["search", "-h"], ["info", "GALLERY"]])
def test_a_full_disk_under_standard_output_is_one_sentence(gallery: Path, arguments: list[str]) -> None:
    tbps = Path(sys.executable).parent / "tbps"
    command = [str(tbps), *(str(gallery) if argument == "GALLERY" else argument for argument in arguments)]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    sentence = "Error: Standard output cannot be written: No space left on device.\nHint: Make room on the disk.\n"
    assert (done.returncode, done.stderr) == (1, sentence)


def test_data_synth_info_and_eval(tiny_bundle: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    options = ["--train", "3", "--val", "2", "--test", "4", "--pictures", "2", "--workers", "1"]
    done = run("data", "synth", "-o", data, *options)
    assert "9 identities, 18 pictures, 36 captions" in done.stdout
    assert "synthetic pedestrians test: 4 identities, 8 pictures, 16 captions" in run("data", "info", data).stdout
    graphs = json.loads(run("eval", tiny_bundle, data, "--json").stdout)
    torch = json.loads(run("eval", tiny_checkpoint, data, "--json", "--backend", "torch").stdout)
    assert graphs["text_to_image"]["queries"] == 16
    for side in ("pessimistic", "optimistic"):
        assert graphs["text_to_image"][side] == pytest.approx(torch["text_to_image"][side], abs=1e-6)
    table = run("eval", tiny_bundle, data).stdout
    assert f"{graphs['text_to_image']['pessimistic']['R@1']:.2f}" in table
    assert "mAP (trapezoid)" in table


def test_init_train_and_carry_on(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_dataset(data, SynthOptions(train=8, val=3, test=2, pictures=2, seed=1, workers=1))
    assert run("init", "--size", "tiny", "--dataset", data, "-o", tmp_path / "start").exit_code == 0
    recipe: list[str | Path] = [
        "--init",
        tmp_path / "start",
        "-b",
        "8",
        "--milestones",
        "1",
        "--pad",
        "2",
        "--warmup-epochs",
        "0",
    ]
    done = succeed("train", data, "-o", tmp_path / "run", "--epochs", "2", *recipe)
    assert "epoch   2/2" in done.stderr
    assert (tmp_path / "run" / "best" / "model.safetensors").is_file()
    again = run("train", data, "-o", tmp_path / "run", "--epochs", "2", *recipe)
    assert again.stdout == done.stdout
    assert "epoch   3/3" in succeed("train", data, "-o", tmp_path / "run", "--epochs", "3", *recipe).stderr
    other = fail(1, "train", data, "-o", tmp_path / "run", "--epochs", "3", *recipe, "--seed", "4")
    assert "seed is 0 there, not 4" in other.stderr
    refused = fail(1, "train", data, "-o", tmp_path / "gpu", "--device", "cuda", *recipe)
    assert "CUDA devices were asked for" in refused.stderr


def test_the_shell_completes_commands_and_options() -> None:
    scripts = Path(sys.executable).parent
    for words, index, wanted in (("tbps se", "1", ["search", "serve"]), ("tbps search --sh", "2", ["--sheet"])):
        env = {**os.environ, "_TBPS_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": index}
        done = subprocess.run([scripts / "tbps"], env=env, capture_output=True, text=True, check=True)
        assert [line.partition(",")[2] for line in done.stdout.splitlines()][: len(wanted)] == wanted


def test_help_tells_that_energy_is_measured() -> None:
    assert "energy" in succeed("bench", "latency", "-h").stdout

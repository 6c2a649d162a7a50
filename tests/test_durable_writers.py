"""Every writer of this project goes through `tbps_infer.atomic`: by what it does, and by what the code calls."""

from __future__ import annotations

import ast
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from places import ROOT
from recorded_disk import RecordedDisk, files_up_to

from tbps_infer.bundle import Bundle
from tbps_infer.errors import TbpsError
from tbps_infer.gallery import (
    Entry,
    FileStamp,
    GalleryWriter,
    Removal,
    compact_gallery,
    copy_gallery,
    export_gallery,
    index_gallery,
    remove_records,
)
from tbps_infer.layout import Segment, VectorLayout
from tbps_infer.model_facts import ModelFacts
from tbps_infer.preprocessing import Preprocessing

LAYOUT = VectorLayout((Segment("global", 16),))
MODEL = ModelFacts("part", {}, Preprocessing(), "none", 64, 0, LAYOUT, "f" * 64)
APPENDED = ("records.sqlite", "records.sqlite-wal", "records.sqlite-shm", "writer.lock", "vectors.f16")
"""SQLite's own files, the lock, and the vectors that commits append to."""

Writer = Callable[[Path], None]
WRITERS: dict[str, Writer] = {}


def writer(function: Writer) -> Writer:
    WRITERS[function.__name__] = function
    return function


@writer
def bundle_json(out: Path) -> None:
    Bundle(out, MODEL, {}, 18, {}, {}, "2026-01-01T00:00:00Z", {}).write_facts()


@writer
def engine_json(out: Path) -> None:
    from tbps_infer.tensorrt.engine_folder import EngineFacts, write_facts

    write_facts(out, EngineFacts("tensorrt", "10", "fp16", None, None, {}, (), {}, {}, "2026-01-01T00:00:00Z"))


@writer
def timing_cache(out: Path) -> None:
    from tbps_infer.tensorrt.timing_cache import TimingCache

    library: Any = SimpleNamespace(made=lambda value, *_: value)
    config = SimpleNamespace(get_timing_cache=lambda: SimpleNamespace(serialize=lambda: b"times"))
    TimingCache(library, out / "folder" / "times", named=True, on_step=lambda _step: None).keep(config)


def make_gallery(path: Path) -> None:
    with GalleryWriter.open(path, MODEL) as gallery:
        for number in range(2):  # the second commit makes the first's row dead
            vectors = np.eye(16, dtype=np.float32)[number : number + 8]
            gallery.commit([Entry(Path(f"/p/{n}"), FileStamp(1, number, "x"), {}) for n in range(8)], vectors)


@writer
def gallery_and_indexes(out: Path) -> None:
    make_gallery(out / "g")
    index_gallery(out / "g")
    pytest.importorskip("usearch")
    index_gallery(out / "g", graph=True)


@writer
def compacted_gallery(out: Path) -> None:
    make_gallery(out / "g")
    index_gallery(out / "g")
    assert compact_gallery(out / "g").dropped == 8
    assert sorted(f.name for f in (out / "g").iterdir() if f.name not in APPENDED) == [
        *("gallery.json", "sketch-1.idx", "vectors-1.f16")
    ]


@writer
def copied_gallery(out: Path) -> None:
    make_gallery(out / "g")
    assert copy_gallery(out / "g", out / "copy") == 8


@writer
def purged_gallery(out: Path) -> None:
    make_gallery(out / "g")
    assert remove_records(out / "g", Removal(records=(1,)), purge=True) == 1


@writer
def exported_gallery(out: Path) -> None:
    pytest.importorskip("pyarrow")
    make_gallery(out / "g")
    export_gallery(out / "g", out / "exported")


@writer
def checkpoint(out: Path) -> None:
    from tbps_infer.reference.checkpoint import save_checkpoint
    from tbps_infer.reference.config import tiny_config
    from tbps_infer.reference.model import PartModel

    model = PartModel(tiny_config(200))
    save_checkpoint(out / "first", model, "{}")
    for text in ("{}", "{ }"):
        save_checkpoint(out / "again", model, text)
    assert (out / "again" / "tokenizer.json").read_text() == "{ }"


@writer
def training_run(out: Path) -> None:
    pytest.importorskip("lightning_fabric")
    from tbps_infer.data.readers import read_dataset
    from tbps_infer.reference.checkpoint import load_checkpoint, save_checkpoint
    from tbps_infer.reference.model import PartModel
    from tbps_infer.reference.pretrained import initial_tiny_checkpoint
    from tbps_infer.training.options import TrainOptions
    from tbps_infer.training.trainer import train

    dataset(out)
    splits = read_dataset(out / "people", "train"), read_dataset(out / "people", "val")
    start = load_checkpoint(initial_tiny_checkpoint(out / "start", splits[0].captions, seed=0))
    model = PartModel(replace(start.config, text=replace(start.config.text, frozen=True)))
    frozen = save_checkpoint(out / "frozen", model, start.tokenizer_path.read_text())
    options = TrainOptions(epochs=1, batch_size=4, warmup_epochs=0, milestones=())
    (out / "run").mkdir()
    (out / "run" / ".run.json.0badcafe.partial").write_text("of a run that was killed")
    train(frozen, splits, out / "run", options)
    for left in (".state.ckpt.0badcafe.partial", "cache/.text-features-1.f16.0badcafe.partial"):
        (out / "run" / left).write_text("of a run that was killed")
    train(frozen, splits, out / "run", options)
    written = {path.relative_to(out / "run").as_posix() for path in (out / "run").rglob("*") if path.is_file()}
    (features,) = {name for name in written if name.startswith("cache/")}
    parts = {f"{folder}/{name}" for folder in ("best", "last") for name in CHECKPOINT}
    assert written == {features, "run.json", "log.csv", "state.ckpt", *parts}


CHECKPOINT = ("config.json", "model.safetensors", "tokenizer.json")


@writer
def page_of_hits(out: Path) -> None:
    from tbps_infer.render.html import write_page

    write_page(out / "page.html", [], LAYOUT)


@writer
def picture(out: Path) -> None:
    from tbps_infer.render.sheet import save_picture

    save_picture(Image.new("RGB", (2, 2)), out / "a.png")


@writer
def sheets(out: Path) -> None:
    from tbps_infer.render.sheet import write_sheet
    from tbps_infer.render.strip import Strip

    write_sheet(out / "a.png", [Strip("x", ())] * 2, LAYOUT, 1, per_page=1)
    assert len(list(out.iterdir())) == 2


@writer
def dataset(out: Path) -> None:
    from tbps_infer.data.synth import SynthOptions, write_dataset

    write_dataset(out / "people", SynthOptions(train=4, val=2, test=1, pictures=1, height=96, workers=1))


@writer
def people_in_a_folder(out: Path) -> None:
    from tbps_infer.data.synth import write_people

    described = write_people(out / "people", 2, seed=1, pictures=1)
    assert all(file.is_file() and file.parent == out / "people" for one in described for file in one.files)


@writer
def tables_of_the_demo(out: Path) -> None:
    from tbps_infer.cli.demo import _write_rows

    _write_rows(out / "a.csv", ("text", "person"), [("a man", 1)])


@writer
def text_of_a_benchmark(out: Path) -> None:
    from tbps_infer.cli.shared.bench_output import _write_file

    _write_file(out / "folder" / "a.json", "{}")


@writer
def graphs_of_searches_on_a_gpu(out: Path) -> None:
    pytest.importorskip("onnx")
    from tbps_infer.gallery.search.device_onnx import write_scan_onnx

    write_scan_onnx(out)


def assert_all_durable(disk: RecordedDisk, out: Path) -> None:
    files = [file for file in out.rglob("*") if file.is_file() and file.name not in APPENDED]
    assert files
    for file in files:
        disk.assert_durable(file)
    assert not list(out.rglob("*.partial"))


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_writer_leaves_only_what_a_power_cut_cannot_take(
    write: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    disk = RecordedDisk(monkeypatch)
    write(out)
    assert_all_durable(disk, out)


def test_plots_of_a_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tbps_infer.benchmarks.plots import Plot
    from tbps_infer.cli.bench import _write_plots

    disk = RecordedDisk(monkeypatch)
    _write_plots(tmp_path / "plots", [Plot("a", "A plot", b"png")])
    assert_all_durable(disk, tmp_path)


@pytest.fixture
def ready_graphs(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exporting takes the graphs that were exported already."""
    from tbps_infer.export import bundle

    monkeypatch.setattr(
        bundle,
        "export_graph",
        lambda _module, _branch, _facts, path, **_: shutil.copyfile(tiny_bundle / path.name, path),
    )


@pytest.mark.usefixtures("ready_graphs")
@pytest.mark.parametrize("overwrite", [False, True])
def test_an_exported_bundle(
    tiny_checkpoint: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    from tbps_infer.export.bundle import export_bundle
    from tbps_infer.export.options import ExportOptions

    if overwrite:
        shutil.copytree(tiny_bundle, tmp_path / "bundle")
    disk = RecordedDisk(monkeypatch)
    export_bundle(tiny_checkpoint, tmp_path / "bundle", ExportOptions(overwrite=overwrite))
    assert_all_durable(disk, tmp_path)
    Bundle.open(tmp_path / "bundle").check_files()


@pytest.mark.parametrize("there", [False, True])
def test_built_engines(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    pytest.importorskip("tensorrt_rtx")
    from tbps_infer.export.engines import build
    from tbps_infer.export.engines.options import EngineOptions

    def pretend(_: object, folder: Path) -> tuple[tuple[()], dict[str, Any]]:
        (folder / "image.plan").write_bytes(b"plan")
        return (), {}

    monkeypatch.setattr(build, "build_plans", pretend)
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    options = EngineOptions("tensorrt-rtx", rebuild=True)
    if there:
        build.build_engines(bundle, options)
    disk = RecordedDisk(monkeypatch)
    build.build_engines(bundle, options)
    assert_all_durable(disk, bundle / "engines")


def test_training_stopped_while_it_saves_its_best_keeps_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint's three files are replaced together: at no call is there a mixture."""
    from tbps_infer.reference.checkpoint import load_checkpoint, save_checkpoint
    from tbps_infer.reference.config import tiny_config
    from tbps_infer.reference.model import PartModel
    from tbps_infer.tokenizer_files import train_wordpiece

    tokenizer = train_wordpiece(["a man in a coat"], 200)
    model = PartModel(tiny_config(tokenizer.get_vocab_size()))
    best = save_checkpoint(tmp_path / "best", model, tokenizer.to_str(), training={"epoch": 1})
    (best / "notes.txt").write_text("mine")
    (best / "bundle").mkdir()
    (best / "bundle" / "tokenizer.json").write_text("of a bundle")
    before = load_checkpoint(best).sha256
    for parameter in model.parameters():
        parameter.data += 1
    disk = RecordedDisk(monkeypatch)
    disk.failure = KeyboardInterrupt()
    stopped = 0
    while True:
        disk.fail_at = len(disk.calls) + stopped + 1
        try:
            save_checkpoint(best, model, tokenizer.to_str(), training={"epoch": 2})
        except KeyboardInterrupt:
            stopped += 1
        else:
            break
        there = load_checkpoint(best)
        assert (there.training["epoch"], there.sha256 == before) in ((1, True), (2, False))
        assert [path.name for path in tmp_path.iterdir()] == ["best"]
    assert stopped == 9  # six files and folders, the folder itself, its name, and the folder that holds the name
    assert load_checkpoint(best).training["epoch"] == 2
    assert (best / "notes.txt").read_text() == "mine"
    assert (best / "bundle" / "tokenizer.json").read_text() == "of a bundle"


@pytest.mark.parametrize("times", [0.5, 1.5], ids=["best", "state.ckpt"])
def test_a_disk_that_fills_up_while_training_saves_is_an_error_that_names_the_place(
    tiny_checkpoint: Path, tmp_path: Path, times: float
) -> None:
    """Neither safetensors nor PyTorch raises an OSError of its own; the state is larger than the checkpoint."""
    pytest.importorskip("lightning_fabric")
    from tbps_infer.data.readers import read_dataset
    from tbps_infer.training.options import TrainOptions
    from tbps_infer.training.trainer import train

    dataset(tmp_path)
    splits = read_dataset(tmp_path / "people", "train"), read_dataset(tmp_path / "people", "val")
    options = TrainOptions(epochs=1, batch_size=4, warmup_epochs=0, milestones=())
    place = "best" if times < 1 else "state.ckpt"
    limit = int(times * (tiny_checkpoint / "model.safetensors").stat().st_size)
    with files_up_to(limit), pytest.raises(TbpsError, match=f"{place} cannot be written") as caught:
        train(tiny_checkpoint, splits, tmp_path / "run", options)
    assert caught.value.hint.startswith("Make room on the disk")
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"run.json", *(["best"] if times > 1 else [])}
    train(tiny_checkpoint, splits, tmp_path / "run", options)


PRODUCT = ("tbps_infer", "export", "benchmarks", "cli")

RENAMES_AND_SYNCS = {
    "writer.GalleryWriter._append": "rows are appended to the vector file, and named by SQLite after the sync",
    "failed.set_aside": "large plans are moved into a folder that `new_folder` puts in its place as a whole",
}
"""Functions outside of atomic.py that may rename or sync, as module and function."""

PLAIN_WRITES = {
    # Into a folder that `new_folder` puts in its place as a whole.
    "bundle._Work.exported": "the bundle that is exported",
    "bundle._Work.copied": "the bundle that graphs are added to, anew",
    "golden.write_golden": "the bundle that is exported",
    "graphs.export_graph": "the bundle that is exported",
    "convert.convert_file": "the bundle that is exported, or the engines that are built",
    "bundle_graphs._install": "the bundle that is exported",
    "plans._build": "the engines that are built",
    "upkeep._write_npy": "the export of a gallery",
    "copying._copy_vectors": "the copy of a gallery",
    "dataset._draw_identity": "the data set that is drawn",
    "dataset._write": "the data set that is drawn",
    "dataset._write_facts": "the data set that is drawn",
    "samples._write_people": "the folder of people that is drawn",
    "dataset._write_rows": "the scenes that are drawn",
    "dataset._Truth.write": "the scenes that are drawn",
    "recording.write_video": "the scenes that are drawn, and clips in a new file",
    "repository._write": "the model repository that is written",
    "segment._write_crop": "crops, which count when the list names them",
    # Into a temporary folder or file, which nobody keeps.
    "bundle_graphs.write_half_graphs": "emulations",
    "bundle_graphs._Work.loss": "trials",
    "bundle_graphs._Work._judged": "trials",
    "source_graphs.engine_graph": "the graph that engines are built from",
    "table._load_published": "the tokenizer of a published checkpoint",
    "downloads._write_zip": "what a browser downloads",
    "many_pictures.study": "the pictures of a study",
    # Appended to, or never read.
    "samples.SampleFile.open": "raw samples are appended as lines",
    "samples._cut_unfinished_line": "raw samples are appended as lines",
    "runs.do_run": "results are appended as lines",
    "runs._write_crop": "into a folder that new_folder makes",
    "device_check._run_all": "facts and messages are appended as lines",
    "creation._create": "an empty vector file; it counts when gallery.json is there",
    "folder.writer_lock": "a lock has no content that matters",
    "crop_folder.open_crops": "a lock has no content that matters",
    # Not a file's method, but the trainer's.
    "trainer.train": "calls save_checkpoint",
    "trainer._Trainer.log": "loggers of Lightning Fabric, which keep files of their own",
}
"""Functions that write without `tbps_infer.atomic`, and into what."""


def functions(tree: ast.AST, outer: str = "") -> Iterator[tuple[str, ast.AST]]:
    """Functions and methods by qualified name, not those inside functions."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef):
            yield from functions(node, f"{outer}{node.name}.")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{outer}{node.name}", node


def calls(function: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(function):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def renames_or_syncs(name: str, call: ast.Call) -> bool:
    """Whether a call is one; a `replace` with one argument is not a string's."""
    if name in ("os.replace", "os.rename", "os.link", "shutil.move", "os.fsync", "os.fdatasync", "os.sync"):
        return True
    method = name.rpartition(".")[2]
    return "." in name and method in ("rename", "replace") and len(call.args) == 1 and not call.keywords


WRITING_METHODS = {"write_text", "write_bytes", "save", "savez", "save_file", "tofile", "write_table", "touch"}
WRITING_FUNCTIONS = {"save_file", "tempfile.mkstemp", *(f"shutil.{name}" for name in ("copyfile", "copy", "copy2"))}
OPENING = {"open", "fdopen", "ZipFile", "NamedTemporaryFile", "memmap"}
A_MODE_THAT_WRITES = re.compile(r"'(?=.*[wxa+])[rwxabt+]{1,3}'")


def writes(name: str, call: ast.Call) -> bool:
    """Whether a call writes a file: by its name, or by the mode in which it opens one."""
    receiver, _, method = name.rpartition(".")
    given = [ast.unparse(value) for value in (*call.args, *(keyword.value for keyword in call.keywords))]
    if method in OPENING:
        return any(A_MODE_THAT_WRITES.fullmatch(one) or "O_CREAT" in one for one in given)
    return name in WRITING_FUNCTIONS or (bool(receiver) and method in WRITING_METHODS)


def product_functions() -> Iterator[tuple[str, str, ast.AST]]:
    """Every function's file, its name after its module's, and itself."""
    for folder in PRODUCT:
        for file in sorted((ROOT / folder).rglob("*.py")):
            if file != ROOT / "tbps_infer" / "atomic.py":
                for name, function in functions(ast.parse(file.read_text())):
                    yield f"{file.relative_to(ROOT)}", f"{file.stem}.{name}", function


@pytest.mark.parametrize(
    ("rule", "seen", "passed"),
    [
        (renames_or_syncs, "path.replace(other)", "text.replace('a', 'b')"),
        (renames_or_syncs, "(folder / 'a').rename(folder / 'b')", "replace(options, seed=1)"),
        (renames_or_syncs, "os.fsync(out.fileno())", "dataclasses.replace(opened, gate=())"),
        (writes, "path.open('w', encoding='utf-8')", "path.open(encoding='utf-8')"),
        (writes, "path.open(mode='r+b')", "path.open('rb')"),
        (writes, "(folder / 'a').write_text(text)", "write_text(folder / 'a', text)"),
        (writes, "np.savez(file, a=a)", "np.load(file)"),
        (writes, "torch.save(state, path)", "trainer.saved(path)"),
    ],
)
def test_the_rules_see_what_they_are_about(rule: Callable[[str, ast.Call], bool], seen: str, passed: str) -> None:
    for code, expected in ((seen, True), (passed, False)):
        ((name, call),) = [(name, call) for name, call in calls(ast.parse(code)) if ast.unparse(call) == code]
        assert rule(name, call) is expected


def test_only_atomic_renames_and_syncs() -> None:
    found = {
        name: f"{file}:{call.lineno} calls {called}"
        for file, name, function in product_functions()
        for called, call in calls(function)
        if renames_or_syncs(called, call)
    }
    assert found.keys() == RENAMES_AND_SYNCS.keys(), found


def test_whoever_writes_a_file_does_it_by_atomic_or_says_why_not() -> None:
    found = {}
    for file, name, function in product_functions():
        called = {name for name, _ in calls(function)}
        if called & {"new_file", "new_folder", "io.BytesIO"}:  # what it writes is put in its place, or in memory
            continue
        for call_name, call in calls(function):
            if writes(call_name, call):
                found[name] = f"{file}:{call.lineno} calls {call_name}"
    assert found.keys() == PLAIN_WRITES.keys(), {
        name: where for name, where in found.items() if name not in PLAIN_WRITES
    }

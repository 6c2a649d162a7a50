"""`tbps bench latency` from end to end on a tiny bundle, and on engines in fake device memory."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from command_line import run, succeed

from tbps_infer.benchmarks import machine_limits
from tbps_infer.benchmarks.backends import WAYS, Choice, Models, list_choices, open_choice
from tbps_infer.benchmarks.environment import Environment
from tbps_infer.benchmarks.latency import LatencyOptions, run_latency
from tbps_infer.benchmarks.measure import Plan, Sample, SystemClock, WarmUpRule
from tbps_infer.benchmarks.plots import AccuracyPoint, draw_plots, read_accuracy
from tbps_infer.benchmarks.results import Results, collect_results
from tbps_infer.benchmarks.samples import Samples, read_samples
from tbps_infer.benchmarks.stages import random_embeddings, write_gallery
from tbps_infer.bundle import Bundle
from tbps_infer.cli.bench import _BACKENDS
from tbps_infer.errors import BackendError, BenchmarkError, UsageError, VerificationError
from tbps_infer.gallery import Gallery
from tbps_infer.runners.fake import fake_facts
from tbps_infer.runners.protocol import Feeds, branch_specs
from tbps_infer.tensorrt.session import EngineSession

QUICK = Plan(samples=3, least_samples=2, pause_s=0, warm_up=WarmUpRule(window=1, tolerance=10))
SMALL = LatencyOptions(
    ways=("torch", "onnxruntime"),
    batches=(1, 2),
    lengths=(8,),
    threads=1,
    rows=50,
    captions=4,
    peak_memory=False,
    plan=QUICK,
)


def quietly(_sentence: str) -> None:
    pass


@pytest.fixture(scope="module")
def small_limits() -> Iterator[None]:
    """The machine's limits are measured on less, which takes less time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine_limits, "MATMUL_SIZE", 64)
        patch.setattr(machine_limits, "COPY_BYTES", 1 << 16)
        yield


@pytest.fixture(scope="module")
def raw(
    tiny_bundle: Path, tiny_checkpoint: Path, small_limits: None, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The raw samples of one quick run."""
    del small_limits
    path = tmp_path_factory.mktemp("bench") / "latency.jsonl"
    run_latency(tiny_bundle, tiny_checkpoint, path, SMALL, ["tbps", "bench"], SystemClock(), quietly)
    return path


@pytest.fixture
def results(raw: Path) -> Results:
    return collect_results(read_samples(raw))


def test_the_command_offers_every_way_without_importing_the_benchmarks() -> None:
    assert _BACKENDS == WAYS


def test_every_arm_is_there_with_enough_samples(results: Results) -> None:
    names = {row.arm for row in results.rows}
    models = {
        f"{work} {backend} cpu fp32{size}"
        for backend in ("torch", "onnxruntime")
        for work, sizes in (
            ("image", (" batch 1", " batch 2")),
            ("text", (" batch 1 length 8", " batch 2 length 8")),
            ("sentence to top 10", ("",)),
            ("caption mix", ("",)),
        )
        for size in sizes
    }
    assert names == models | {"decode", "resize", "tokenise", "search", "limit matmul cpu fp32", "limit copy cpu"}
    assert all(row.summary.count >= 2 and row.summary.p50_ms > 0 for row in results.rows)
    mix = next(row for row in results.rows if row.what == "caption mix")
    assert mix.summary.items == 4


def test_what_is_not_here_has_its_reason(results: Results) -> None:
    absent = results.note("absent")
    assert set(absent) == {f"{way} cpu {p}" for way in ("torch", "onnxruntime") for p in ("fp16", "int8")}
    assert "holds no int8 graph" in absent["onnxruntime cpu int8"]


def test_arms_agree_with_the_golden_vectors(results: Results) -> None:
    parity = results.note("parity")
    assert len(parity) == 4
    assert min(parity.values()) > 0.9999
    assert results.note("costs")["text 8"]["flops"] > 0


def test_the_baseline_is_pytorch(results: Results) -> None:
    for row in results.of("image"):
        assert row.baseline == "torch cpu fp32"
        assert (row.ratio is None) == (row.configuration["backend"] == "torch")


def test_a_second_run_only_continues(raw: Path, tiny_bundle: Path, tiny_checkpoint: Path) -> None:
    before = read_samples(raw).samples
    held = run_latency(tiny_bundle, tiny_checkpoint, raw, SMALL, ["tbps"], SystemClock(), quietly)
    assert held.samples == before
    more = LatencyOptions(**{**vars(SMALL), "threads": 2})
    with pytest.raises(BenchmarkError, match=r"another configuration \(threads: 1, now 2\)"):
        run_latency(tiny_bundle, tiny_checkpoint, raw, more, ["tbps"], SystemClock(), quietly)
    assert read_samples(raw).samples == before


def test_lengths_beyond_the_model(tiny_bundle: Path, tmp_path: Path) -> None:
    options = LatencyOptions(**{**vars(SMALL), "lengths": (8, 4000)})
    with pytest.raises(UsageError, match="text length is 4000, and this model takes 3 to"):
        run_latency(tiny_bundle, None, tmp_path / "raw", options, ["tbps"], SystemClock(), quietly)


def test_another_checkpoint_is_no_reference(tiny_bundle: Path, tmp_path: Path) -> None:
    from tbps_infer.reference.config import tiny_config
    from tbps_infer.reference.pretrained import initial_checkpoint

    bundle = Bundle.open(tiny_bundle)
    tokenizer = (tiny_bundle / "tokenizer.json").read_text()
    other = initial_checkpoint(
        tmp_path / "other", tiny_config(bundle.model.config["text"]["vocab_size"]), tokenizer, seed=1
    )
    with pytest.raises(UsageError, match="was not exported from"):
        Models.open(tiny_bundle, other, 1)


def test_a_backend_that_computes_something_else_is_not_timed(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tbps_infer.runners.onnxruntime_runner import OnnxRuntimeRunner

    whole = OnnxRuntimeRunner.run_timed

    def broken(self: OnnxRuntimeRunner, feeds: object) -> object:
        outputs, times = whole(self, feeds)  # type: ignore[arg-type]
        return {name: values[:, ::-1] for name, values in outputs.items()}, times

    monkeypatch.setattr(OnnxRuntimeRunner, "run_timed", broken)
    options = LatencyOptions(**{**vars(SMALL), "ways": ("onnxruntime",)})
    with pytest.raises(VerificationError, match="image branch on onnxruntime cpu fp32 has a cosine of"):
        run_latency(tiny_bundle, None, tmp_path / "raw", options, ["tbps"], SystemClock(), quietly)


def test_a_branch_that_is_not_there_does_not_take_the_other_with_it(
    tiny_bundle: Path, small_limits: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tbps_infer.benchmarks import latency

    del small_limits

    def images_alone(choice: Choice, models: Models, branch: str) -> object:
        if branch == "text":
            raise BackendError("No engine of the text branch.", "Build one.")
        return open_choice(choice, models, "image")

    monkeypatch.setattr(latency, "open_choice", images_alone)
    options = LatencyOptions(**{**vars(SMALL), "ways": ("onnxruntime",), "precisions": ("fp32",)})
    held = run_latency(tiny_bundle, None, tmp_path / "raw", options, ["tbps"], SystemClock(), quietly)
    works = {values["what"] for values in held.configurations.values() if "backend" in values}
    assert works == {"image"}
    assert held.notes["absent"] == {
        "the text branch on onnxruntime cpu fp32": "No engine of the text branch. Build one."
    }


def test_nothing_that_runs_is_an_error(tiny_bundle: Path, tmp_path: Path) -> None:
    options = LatencyOptions(**{**vars(SMALL), "ways": ("torch",)})
    with pytest.raises(BenchmarkError, match="No backend that was asked for runs here") as caught:
        run_latency(tiny_bundle, None, tmp_path / "raw", options, ["tbps"], SystemClock(), quietly)
    assert "--reference" in caught.value.hint


# Choices


def test_engines_are_timed_with_and_without_graphs_on_gpus_alone() -> None:
    assert {choice.way for choice in list_choices(["cpu"])} == {"torch", "torch-compile", "onnxruntime"}
    graphs = [choice.cuda_graphs for choice in list_choices(["cuda"], ("tensorrt",), ("fp16",))]
    assert graphs == [True, False]
    labels = [choice.label for choice in list_choices(["cuda:1"], ("tensorrt", "onnxruntime"), ("fp16",))]
    assert labels == ["tensorrt cuda:1 fp16 graphs", "tensorrt cuda:1 fp16 no graphs", "onnxruntime cuda:1 fp16"]


@pytest.mark.parametrize("graphs", [True, False])
def test_engines_tell_the_devices_times(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, graphs: bool) -> None:
    """Over a fake session whose copies and runs take a millisecond of the device's clock each."""
    from fake_memory import FakeMemory

    import tbps_infer.tensorrt.runner as runner

    bundle, memory, asked = Bundle.open(tiny_bundle), FakeMemory(), list[str]()

    class Session:
        maximum = 4

        def submit(self, feeds: Feeds, timers: list[int]) -> int:
            assert memory.has_graphs is graphs
            stream = memory.make_stream()
            for timer in timers:
                memory.record(timer, stream)
                memory.put(stream, lambda: None, 2.0)
            memory.synchronize(stream)
            memory.free_stream(stream)
            return len(feeds["pixels"])

        def collect(self, slot: int) -> Feeds:
            return {"image_embedding": np.zeros((slot, bundle.model.layout.dim), np.float32)}

        def close(self) -> None:
            pass

    def run_folder(*_args: object, where: str) -> runner.TensorRTRunner:
        asked.append(where)
        specs = branch_specs(bundle.model, "image")
        return runner.TensorRTRunner(specs, {None: lambda: cast(EngineSession, Session())}, memory)

    monkeypatch.setattr(runner, "open_memory", lambda _index, _kind: memory)
    monkeypatch.setattr(runner, "open_library", lambda _flavour: None)
    monkeypatch.setattr(runner, "find_engines", lambda *_args: None)
    monkeypatch.setattr(runner, "run_folder", run_folder)
    opened, run = open_choice(Choice("tensorrt", "cuda:0", "fp16", graphs), Models(bundle, None, 1), "image")
    height, width = bundle.model.preprocessing.image_size
    times = run({"pixels": np.zeros((6, height, width, 3), np.uint8)})
    assert times == {"host_to_device_ms": 4.0, "compute_ms": 4.0, "device_to_host_ms": 4.0}  # in two pieces
    assert asked == ["cuda:0 Fake GPU"]
    opened.close()
    assert (memory.held, memory.closed) == (0, True)


def test_graphs_are_refused_where_cuda_is_called_without_them(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fake_memory import FakeMemory

    import tbps_infer.tensorrt.runner as runner

    memory = FakeMemory(has_graphs=False)
    monkeypatch.setattr(runner, "open_memory", lambda _index, _kind: memory)
    monkeypatch.setattr(runner, "open_library", lambda _flavour: None)
    with pytest.raises(BackendError, match="has no CUDA graphs"):
        open_choice(Choice("tensorrt", "cuda:0", "fp16", True), Models(Bundle.open(tiny_bundle), None, 1), "image")
    assert memory.closed


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # torch.compile warns of PyTorch's own old parts
def test_compiled_pytorch_gives_the_same_embeddings(tiny_bundle: Path, tiny_checkpoint: Path) -> None:
    from tbps_infer.verification.golden import golden_cosine

    models = Models.open(tiny_bundle, tiny_checkpoint, 1)
    arm, run = open_choice(Choice("torch-compile", "cpu", "fp32"), models, "text")
    assert golden_cosine(models.bundle.golden(), "text", arm) > 0.99999
    assert run({"input_ids": np.ones((1, 5), np.int32), "attention_mask": np.ones((1, 5), np.int32)}) == {}


# The gallery that is searched


def test_random_embeddings_have_the_layouts_norms(tmp_path: Path) -> None:
    facts = fake_facts()
    vectors = random_embeddings(facts.layout, 30, 0)
    for segment in facts.layout.segments:
        squared = (vectors[:, facts.layout.slices[segment.name]] ** 2).sum(axis=1)
        np.testing.assert_allclose(squared, segment.weight, rtol=1e-5)
    path = write_gallery(tmp_path / "g", facts, 30, lambda start, stop: vectors[start:stop])
    with Gallery.open(path) as gallery:
        assert gallery.count == 30
        assert [hits[0].record for hits in gallery.search(vectors[[3, 20]], 1)] == [
            gallery.search(vectors[[row]], 1)[0][0].record for row in (3, 20)
        ]
        assert [hits[0].path.name for hits in gallery.search(vectors[[3, 20]], 1)] == ["3", "20"]


# The report


def test_plots_are_pictures_and_tell_arms_apart(results: Results) -> None:
    from tbps_infer.benchmarks.plots import _styles

    plots = draw_plots(results)
    assert [plot.name for plot in plots] == ["latency-image", "latency-text", "throughput-precision"]
    assert all(plot.png.startswith(b"\x89PNG") for plot in plots)
    styles = _styles(results)
    assert set(styles) == {"torch cpu fp32", "onnxruntime cpu fp32"}
    assert len({(style["color"], style["marker"]) for style in styles.values()}) == 2
    assert len({style["color"] for style in styles.values()}) == len({s["marker"] for s in styles.values()}) == 2


def test_precisions_of_one_backend_differ_without_colour_and_graphs_are_drawn_once() -> None:
    from tbps_infer.benchmarks.plots import _drawn, _styles

    held = Samples(Path("raw"), Environment({}, {}))
    for choice in (*list_choices(["cuda"], ("tensorrt",)), *list_choices(["cuda"], ("onnxruntime",))):
        values = {"what": "image", "backend": choice.way, "device": choice.device, "precision": choice.precision}
        held.configurations[choice.label] = {**values, "cuda_graphs": choice.cuda_graphs, "batch": 1, "length": None}
        held.samples[choice.label] = [Sample(choice.label, 0, 1.0, 1)]
    results = collect_results(held)
    styles = _styles(results)
    assert len({(s["marker"], s["linestyle"], s["fillstyle"]) for s in styles.values()}) == len(styles) == 9
    assert {row.label for row in _drawn(results.rows)} == {
        f"{backend} cuda:0 {p}{graphs}"
        for backend, graphs in (("tensorrt", " graphs"), ("onnxruntime", ""))
        for p in ("fp32", "fp16", "int8")
    }


def test_accuracy_is_plotted_against_the_latency_of_the_same_backend(results: Results, tmp_path: Path) -> None:
    point = AccuracyPoint("onnxruntime", "cpu", "fp32", 61.5)
    assert draw_plots(results, [point])[-1].name == "accuracy-latency"
    with pytest.raises(BenchmarkError, match="other backends than those that were timed: tensorrt cuda:0 fp16"):
        draw_plots(results, [AccuracyPoint("tensorrt", "cuda:0", "fp16", 61.5)])
    engine = {"backend": "onnxruntime", "device": "cpu", "precision": "fp32", "metrics": {"R@1": 61.5, "mAP": 50.0}}
    (tmp_path / "good.json").write_text(json.dumps({"engines": [engine], "not_run": []}))
    assert read_accuracy(tmp_path / "good.json") == [point]
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(BenchmarkError, match="is not what tbps bench accuracy writes"):
        read_accuracy(tmp_path / "bad.json")


def test_without_matplotlib_the_extra_is_named(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(BackendError, match="matplotlib, which is not installed") as caught:
        draw_plots(results)
    assert "tbps-infer[bench]" in caught.value.hint


QUICKLY = (
    *("--threads", 1, "--samples", 2, "--least-samples", 2, "--arm-seconds", 0, "--warm-up-seconds", 0),
    *("--rows", 20, "--no-peak-memory"),
)


def test_the_command_writes_all_its_reports(small_limits: None, tiny_bundle: Path, tmp_path: Path) -> None:
    del small_limits
    out = tmp_path / "out"
    files = ("--csv", out / "l.csv", "--markdown", out / "l.md", "--json", out / "l.json")
    drawn = ("--html", out / "l.html", "--plots", out / "plots")
    small = ("--backend", "onnxruntime", "--precision", "fp32", "--batches", "1", "--text-lengths", "8")
    done = succeed(
        "bench", "latency", tiny_bundle, "--device", "cpu", *small, *QUICKLY, "--raw", out / "l.jsonl", *files, *drawn
    )
    assert "Image branch" in done.stdout
    assert re.search(r"^onnxruntime +cpu +fp32 +1 ", done.stdout, re.MULTILINE)
    rows = json.loads((out / "l.json").read_text())["rows"]
    assert len((out / "l.csv").read_text().splitlines()) == 1 + len(rows)
    page = (out / "l.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert {path.name for path in (out / "plots").iterdir()} == {
        "latency-image.png",
        "latency-text.png",
        "throughput-precision.png",
    }
    assert "### Image branch" in (out / "l.md").read_text()
    again = run(
        "bench", "latency", tiny_bundle, "--device", "cpu", *small, *QUICKLY, "--raw", out / "l.jsonl", "--json", "-"
    )
    assert json.loads(again.stdout)["rows"] == rows


def test_the_command_refuses_to_mix(raw: Path, tiny_bundle: Path) -> None:
    before = raw.read_bytes()
    done = run(
        *("bench", "latency", tiny_bundle, "--device", "cpu", "--backend", "onnxruntime", "--threads", 3),
        *("--raw", raw, "--no-peak-memory"),
    )
    assert done.exit_code == 1
    assert "another configuration" in done.stderr
    assert before in raw.read_bytes()


def test_peak_memory_is_measured_apart(tiny_bundle: Path) -> None:
    from tbps_infer.benchmarks.peak_memory import PeakTask, measure_peak

    choice = Choice("onnxruntime", "cpu", "fp32")
    peak = measure_peak(PeakTask(str(tiny_bundle), None, "image", choice, 2, None, 1))
    assert peak.host_bytes > peak.idle_bytes > 10 << 20
    assert peak.device_bytes is None
    with pytest.raises(
        BenchmarkError, match=r"peak memory of onnxruntime cpu fp32 failed: .*No such file|does not exist"
    ):
        measure_peak(PeakTask("/nowhere", None, "image", choice, 2, None, 1))

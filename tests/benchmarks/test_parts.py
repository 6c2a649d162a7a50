"""What reports rest on: counted operations, recorded environments, measured energy, summaries and tables."""

from __future__ import annotations

import csv
import io
import json
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from fake_clock import FakeClock
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from text_files import write_files

from tbps_infer.benchmarks.document import markdown_text
from tbps_infer.benchmarks.energy import find_rails, measure_energy
from tbps_infer.benchmarks.environment import Environment, record_environment
from tbps_infer.benchmarks.flops import graph_cost
from tbps_infer.benchmarks.latency_report import latency_csv, latency_document
from tbps_infer.benchmarks.measure import Arm, Sample, Value
from tbps_infer.benchmarks.results import Results, collect_results
from tbps_infer.benchmarks.samples import SampleFile, read_samples
from tbps_infer.benchmarks.studies.performance import limit_table
from tbps_infer.errors import BenchmarkError

# Operations


def graph(path: Path, nodes: Sequence[onnx.NodeProto], inputs: dict[str, list[str | int]], **weights: object) -> Path:
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    out = [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)]
    made = helper.make_graph(list(nodes), "g", values, out, tensors)
    opset = [helper.make_opsetid("", 23)]
    onnx.save(helper.make_model(made, opset_imports=opset, ir_version=11), path)
    return path


def zeros(*shape: int) -> NDArray[np.float32]:
    return np.zeros(shape, np.float32)


def test_a_product_of_matrices(tmp_path: Path) -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    made = graph(tmp_path / "g.onnx", [node], {"x": ["batch", "length", 5]}, w=zeros(5, 7))
    cost = graph_cost(made, {"batch": 2, "length": 3})
    assert cost.flops == 2 * (2 * 3) * 5 * 7
    assert cost.weight_bytes == 4 * 5 * 7


@pytest.mark.parametrize("transposed", [0, 1])
def test_a_gemm(tmp_path: Path, transposed: int) -> None:
    node = helper.make_node("Gemm", ["x", "w"], ["y"], transA=transposed)
    shape: list[str | int] = [5, "batch"] if transposed else ["batch", 5]
    made = graph(tmp_path / "g.onnx", [node], {"x": shape}, w=zeros(5, 7))
    assert graph_cost(made, {"batch": 3}).flops == 2 * 3 * 5 * 7


def test_convolutions(tmp_path: Path) -> None:
    """3x3 of stride 2 with padding 1 on 8x6 gives 4x3; then one in two groups."""
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["h"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["h", "b"], ["y"], group=2),
    ]
    made = graph(tmp_path / "g.onnx", nodes, {"x": ["batch", 3, 8, 6]}, a=zeros(10, 3, 3, 3), b=zeros(4, 5, 1, 1))
    first = 2 * (2 * 10 * 4 * 3) * (3 * 3 * 3)
    second = 2 * (2 * 4 * 4 * 3) * 5
    assert graph_cost(made, {"batch": 2}).flops == first + second


def test_attention(tmp_path: Path) -> None:
    """4 heads of 8: 6 queries on 9 keys, values of 5."""
    node = helper.make_node("Attention", ["q", "k", "v"], ["y"])
    shapes: dict[str, list[str | int]] = {"q": ["batch", 4, 6, 8], "k": ["batch", 4, 9, 8], "v": ["batch", 4, 9, 5]}
    made = graph(tmp_path / "g.onnx", [node], shapes)
    assert graph_cost(made, {"batch": 2}).flops == 2 * 2 * 4 * 6 * 9 * (8 + 5)
    flat = helper.make_node("Attention", ["q", "k", "v"], ["y"], q_num_heads=4, kv_num_heads=4)
    shapes = {"q": ["batch", 6, 32], "k": ["batch", 9, 32], "v": ["batch", 9, 20]}
    made = graph(tmp_path / "flat.onnx", [flat], shapes)
    assert graph_cost(made, {"batch": 2}).flops == 2 * 2 * 4 * 6 * 9 * (8 + 5)


def test_a_table_that_rows_are_taken_from_is_not_read_whole(tmp_path: Path) -> None:
    nodes = [helper.make_node("Gather", ["table", "ids"], ["h"]), helper.make_node("MatMul", ["h", "w"], ["y"])]
    made = graph(tmp_path / "g.onnx", nodes, {}, table=zeros(1000, 5), w=zeros(5, 7), ids=np.array([1, 2]))
    cost = graph_cost(made, {})
    assert (cost.flops, cost.weight_bytes) == (2 * 2 * 5 * 7, 4 * 5 * 7 + 8 * 2)


def test_an_axis_without_a_size(tmp_path: Path) -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    made = graph(tmp_path / "g.onnx", [node], {"x": ["batch", 5]}, w=zeros(5, 7))
    with pytest.raises(BenchmarkError, match=r"axis batch of g\.onnx has no size"):
        graph_cost(made, {})


def test_exported_graphs_count_in_proportion(tiny_bundle: Path, tiny_checkpoint: Path) -> None:
    """The tiny text branch by PyTorch's own counter, and images that double with the batch."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from tbps_infer.families.table import load_source

    source = load_source(None, tiny_checkpoint)
    ids = torch.ones(2, 24, dtype=torch.int32)
    height, width = source.facts.preprocessing.image_size
    pixels = torch.zeros(2, height, width, 3, dtype=torch.uint8)
    for name, module, inputs in (("text", source.text, (ids, ids)), ("image", source.image, (pixels,))):
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            module(*inputs)
        counted = graph_cost(tiny_bundle / f"{name}.onnx", {"batch": 2, "length": 24}).flops
        # PyTorch's own fused attention and folded weights differ by little.
        assert counted == pytest.approx(counter.get_total_flops(), rel=0.05), name


# The environment

ORIN = {
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano\0",
    "proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm\n\nprocessor\t: 1\nFeatures\t: fp\n",
    "proc/meminfo": "MemTotal:        8000000 kB\nMemAvailable:    5000000 kB\nHugePages_Total:       0\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq": "1510400\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "729600\n",
    "sys/class/devfreq/17000000.gpu/max_freq": "624750000\n",
    "sys/class/devfreq/17000000.gpu/cur_freq": "306000000\n",
    "proc/self/cgroup": "0::/box\n",
    "sys/fs/cgroup/box/cpu.max": "150000 100000\n",
}


def test_a_board_is_read_from_its_files(tmp_path: Path) -> None:
    def tool(command: Sequence[str]) -> str:
        return "NV Power Mode: 15W\n0\n" if command[0] == "nvpmodel" else ""

    found = record_environment(write_files(tmp_path, ORIN), tool, packages=("numpy", "no-such-package"))
    stable, conditions = found.stable, found.conditions
    assert stable["board"] == "NVIDIA Jetson Orin Nano"
    assert stable["cpu_flags"] == ["asimddp", "i8mm"]
    assert stable["memory_bytes"] == 8_000_000 * 1024
    assert (stable["governor"], stable["most_cpu_mhz"], stable["power_mode"]) == ("schedutil", 1510.4, "15W")
    assert (stable["quota_cores"], stable["usable_cores"]) == (1.5, 1)
    assert stable["packages"] == {"numpy": np.__version__}
    assert (stable["most_gpu_mhz"], conditions["gpu_mhz"]) == ([624.8], [306.0])
    assert (conditions["cpu_mhz"], conditions["available_bytes"]) == (729.6, 5_000_000 * 1024)


def test_gpus_as_nvidia_smi_words_them(tmp_path: Path) -> None:
    lasting = "NVIDIA A10, 550.1, 150.00 W, 1695 MHz, 6251 MHz, Enabled\n"
    of_now = "210 MHz, 405 MHz, P8, 9.80 W, 33, 0x1\n"

    def tool(command: Sequence[str]) -> str:
        assert command[0] == "nvidia-smi"
        return lasting if "driver_version" in command[1] else of_now

    found = record_environment(tmp_path, tool)
    (gpu,), (moment,) = found.stable["gpus"], found.conditions["gpus"]
    assert (gpu["name"], gpu["driver_version"], gpu["power.limit"]) == ("NVIDIA A10", "550.1", "150.00 W")
    assert (moment["clocks.sm"], moment["temperature.gpu"]) == ("210 MHz", "33")
    assert found.stable["power_mode"] is None


def test_the_fingerprint_is_of_what_lasts(tmp_path: Path) -> None:
    root = write_files(tmp_path, ORIN)
    first = record_environment(root, lambda _command: "")
    write_files(root, {"sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1510400\n"})
    second = record_environment(root, lambda _command: "")
    assert second.conditions["cpu_mhz"] == 1510.4
    assert (first.fingerprint, second.differences(first)) == (second.fingerprint, [])
    write_files(root, {"sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance\n"})
    third = record_environment(root, lambda _command: "")
    assert third.fingerprint != first.fingerprint
    assert third.differences(first) == ["governor: 'schedutil', now 'performance'"]


# Energy

SENSOR = "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3"


def channel(number: int, name: str, millivolts: int, milliamperes: int) -> dict[str, str]:
    return {
        f"{SENSOR}/in{number}_label": f"{name}\n",
        f"{SENSOR}/in{number}_input": f"{millivolts}\n",
        f"{SENSOR}/curr{number}_input": f"{milliamperes}\n",
    }


def test_the_boards_own_rail_is_not_added_to_those_it_feeds(tmp_path: Path) -> None:
    files = (
        channel(1, "VDD_IN", 5000, 1200) | channel(2, "VDD_CPU_GPU_CV", 5000, 400) | channel(3, "VDD_SOC", 5000, 300)
    )
    root = write_files(tmp_path, files | {f"{SENSOR}/in7_label": "Sum of shunt voltages\n"})
    rails = find_rails(root)
    assert {rail.name: round(rail.watts(), 6) for rail in rails} == {"VDD_IN": 6.0}


def test_rails_that_feed_apart_add_up(tmp_path: Path) -> None:
    files = channel(1, "VDD_GPU_SOC", 19000, 100) | channel(2, "VDD_CPU_CV", 19000, 50) | channel(3, "NC", 1, 1)
    old = "sys/bus/i2c/drivers/ina3221x/0-0041/iio:device1"
    files |= {f"{old}/rail_name_0": "SYS5V\n", f"{old}/in_power0_input": "2500\n"}
    rails = find_rails(write_files(tmp_path, files))
    assert {rail.name: round(rail.watts(), 6) for rail in rails} == {
        "VDD_GPU_SOC": 1.9,
        "VDD_CPU_CV": 0.95,
        "SYS5V": 2.5,
    }


def test_energy_is_power_over_time(tmp_path: Path) -> None:
    """8 runs of 4 items in 0.25 s each at 6 W: 12 J for 32 items."""
    root = write_files(tmp_path, channel(1, "VDD_IN", 5000, 1200))
    clock = FakeClock()
    arm = Arm("a", {}, lambda: clock.sleep(0.25), items=4)
    energy = measure_energy(arm, find_rails(root), clock, 2.0)
    assert energy.runs == 8
    assert energy.watts == pytest.approx(6)
    assert energy.joules_per_item == pytest.approx(12 / 32)
    assert energy.rails == ("VDD_IN",)


def test_changing_power_is_integrated(tmp_path: Path) -> None:
    """From 6 W before to 12 W after, read twice: the trapezoid's mean is 9 W."""
    root = write_files(tmp_path, channel(1, "VDD_IN", 5000, 1200))
    clock = FakeClock()

    def work() -> None:
        clock.sleep(1)
        write_files(root, channel(1, "VDD_IN", 5000, 2400))

    idle = lambda **_kwargs: threading.Thread()  # noqa: E731 - no readings but the first and the last
    energy = measure_energy(Arm("a", {}, work), find_rails(root), clock, 0.5, watch=idle)
    assert (energy.runs, energy.readings) == (1, 2)
    assert energy.watts == pytest.approx(9)
    assert energy.joules_per_item == pytest.approx(9)


def test_no_sensors(tmp_path: Path) -> None:
    assert find_rails(tmp_path) == []


# Peak memory


def test_the_peak_of_a_process_is_its_own(tmp_path: Path) -> None:
    from tbps_infer.benchmarks.peak_memory import peak_resident_bytes

    status = write_files(tmp_path, {"proc/self/status": "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n"})
    assert peak_resident_bytes(status) == 2 << 20
    assert peak_resident_bytes(status, "VmRSS") == 1 << 20
    with pytest.raises(BenchmarkError, match="does not tell"):
        peak_resident_bytes(write_files(tmp_path, {"proc/self/status": "Name:\tx\n"}))


def test_a_child_does_not_inherit_the_peak_of_its_parent() -> None:
    import subprocess
    import sys

    held = np.ones(200 << 20, np.uint8)
    code = "from tbps_infer.benchmarks.peak_memory import peak_resident_bytes; print(peak_resident_bytes())"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert 10 << 20 < int(done.stdout) < held.nbytes


# Reports


def configuration(backend: str, precision: str) -> dict[str, Value]:
    return {
        "what": "image",
        "backend": backend,
        "device": "cpu",
        "precision": precision,
        "cuda_graphs": None,
        "threads": 2,
        "batch": 1,
        "length": None,
    }


def limit(kind: str, precision: str | None, work: int) -> dict[str, Value]:
    shared: dict[str, Value] = {"what": "limit", "kind": kind, "device": "cpu", "precision": precision}
    return {**shared, "library": "numpy", "threads": 2, "work": work, "unit": "flop" if precision else "byte"}


ARMS: tuple[tuple[dict[str, Value], int, tuple[int, ...]], ...] = (
    (configuration("torch", "fp32"), 1, (80, 100, 120)),
    (configuration("onnxruntime", "fp32"), 1, (40, 50, 60)),
    (configuration("onnxruntime", "int8"), 1, (20, 20, 24)),
    ({**configuration("onnxruntime", "fp32"), "batch": 4}, 4, (160, 160, 160)),
    (limit("matmul", "fp32", 10**9), 1, (10, 30, 20)),
    (limit("copy", None, 10**9), 1, (200, 100, 150)),
    ({"what": "search", "device": "cpu", "rows": 1000, "row_bytes": 20_000}, 1, (4, 4, 4)),
    ({"what": "Crops to embeddings", "peer": "a plain loop", "baseline": True}, 2, (30, 30, 33)),
    ({"what": "Crops to embeddings", "peer": "tbps-infer"}, 2, (10, 10, 10)),
)


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """Figures whose summaries are plain: see ARMS."""
    raw = tmp_path / "raw.jsonl"
    environment = Environment({"cpu": "abacus", "usable_cores": 2, "packages": {"numpy": "2"}}, {})
    with SampleFile.open(raw, environment, ["tbps", "bench"]) as book:
        for number, (values, items, times) in enumerate(ARMS):
            arm = Arm(f"arm {number}", values, lambda: None, items)
            for turn, ms in enumerate(times):
                book.add_sample(arm, Sample(arm.name, turn, float(ms), items))
        book.add_note("absent", {"torch cpu fp16": "no FP16 here", "torch cpu int8": "no FP16 here"})
        book.add_note("costs", {"image": {"flops": 10**9, "weight_bytes": 10**8}})
        book.add_note("model", "a model")
    return collect_results(read_samples(raw))


def test_json_and_csv_agree(results: Results) -> None:
    values = json.loads(json.dumps(results.to_json()))["rows"][:3]
    assert [row["p50_ms"] for row in values] == [100, 50, 20]
    assert [row["per_second"] for row in values] == pytest.approx([10, 20, 50])
    assert [(row["times_as_fast"] or {}).get("median") for row in values] == [None, 2.0, 5.0]
    table = list(csv.DictReader(io.StringIO(latency_csv(results))))
    assert [(row["backend"], row["precision"], row["p50_ms"], row["times_as_fast"]) for row in table[:3]] == [
        ("torch", "fp32", "100", ""),
        ("onnxruntime", "fp32", "50", "2"),
        ("onnxruntime", "int8", "20", "5"),
    ]
    assert len(table) == len(ARMS)


def test_markdown_says_what_was_not_measured(results: Results) -> None:
    text = markdown_text(latency_document(results))
    assert "| onnxruntime | cpu | int8 | 1 | 20.00 |" in text
    assert "- torch cpu fp16, torch cpu int8: no FP16 here" in text
    assert "- Command: `tbps bench`" in text


def test_peers_are_compared_with_their_baseline(results: Results) -> None:
    (table,) = (table for table in latency_document(results).tables if table.title == "Crops to embeddings")
    assert table.head[6] == "× a plain loop"
    assert [(row[0], row[5], row[6]) for row in table.rows] == [
        ("a plain loop", "66.67", "1"),
        ("tbps-infer", "200.0", "3.00"),
    ]


def test_how_far_from_the_limit(results: Results) -> None:
    """1 GFLOP in 50 ms is a fifth of 1 GFLOP in 10 ms at best; 100 MB of weights in 50 ms a fifth of 1 GB in 100."""
    table = limit_table(results)
    assert table is not None
    assert [row[1:] for row in table.rows] == [
        ("100.00", "10.0", "10 %", "1.0", "10 %"),
        ("50.00", "20.0", "20 %", "2.0", "20 %"),
        ("20.00", "50.0", "50 %*", "", ""),
        ("160.00", "25.0", "25 %", "", ""),
        ("4.00", "", "", "5.0", "50 %"),
    ]


def test_the_performance_page_is_written_from_raw_files(results: Results, tmp_path: Path) -> None:
    from tbps_infer.benchmarks.studies.performance import main

    raw = results.samples.path
    assert main([str(raw), "-o", str(tmp_path / "docs" / "performance.md")]) == 0
    page = (tmp_path / "docs" / "performance.md").read_text()
    assert "on abacus, 2 cores: a model" in page
    assert "Raw samples: `raw.jsonl`." in page
    assert "### How far from the machine's limit" in page
    assert main([str(tmp_path / "nowhere"), "-o", str(tmp_path / "x.md")]) == 1
    assert not (tmp_path / "x.md").exists()


# Drivers


def test_the_search_driver_measures_by_the_core() -> None:
    from tbps_infer.benchmarks.studies.search import interleaved

    clock = FakeClock()
    samples = interleaved({"slow": lambda: clock.sleep(0.3), "fast": lambda: clock.sleep(0.1)}, 4, clock)
    assert {name: [round(sample.ms) for sample in taken] for name, taken in samples.items()} == {
        "slow": [300] * 4,
        "fast": [100] * 4,
    }
    assert [sample.round for sample in samples["slow"]] == [0, 1, 2, 3]


def test_the_embedding_driver_embeds_everything_each_time(tiny_bundle: Path, tmp_path: Path) -> None:
    from tbps_infer.benchmarks.studies.embedding import embedding_arms
    from tbps_infer.bundle import Bundle
    from tbps_infer.encoder import Encoder
    from tbps_infer.gallery import Gallery
    from tbps_infer.sources import SourceItem

    items = [SourceItem(path, {}) for path in Bundle.open(tiny_bundle).golden().crops]
    with Encoder.open(tiny_bundle, batch_size=2) as encoder:
        model, embed = embedding_arms(encoder, items, tmp_path)
        for arm in (model, embed, embed):
            assert arm.run() is None
            assert arm.items == len(items)
    for number in (0, 1):
        with Gallery.open(tmp_path / f"gallery-{number}") as gallery:
            assert gallery.count == len(items)

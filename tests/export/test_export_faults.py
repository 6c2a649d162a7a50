"""Faults planted in real graphs: verification finds them, and an export of them leaves nothing behind."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

import tbps_infer.export.bundle
from tbps_infer.bundle import Bundle
from tbps_infer.errors import VerificationError
from tbps_infer.export.bundle import export_bundle, torch_reference
from tbps_infer.export.options import ExportOptions
from tbps_infer.families.table import SourceModel, load_source
from tbps_infer.model_facts import Branch
from tbps_infer.runners.onnxruntime_runner import OnnxRuntimeRunner
from tbps_infer.runners.options import RunOptions
from tbps_infer.text import Tokenizer
from tbps_infer.verification.parity import Shapes, measure_parity
from tbps_infer.verification.parity_report import ParityReport
from tbps_infer.verification.samples import prepare_samples, synthetic_samples
from tbps_infer.verification.tolerances import ParityLimits

BRANCHES: tuple[Branch, ...] = ("image", "text")
Array = NDArray[np.float32]


@pytest.fixture(scope="module")
def source(tiny_checkpoint: Path) -> SourceModel:
    return load_source("part", tiny_checkpoint)


def fault_in_graph(folder: Path, out: Path, branch: Branch, change: Callable[[onnx.ModelProto], None]) -> None:
    model = onnx.load(folder / f"{branch}.onnx")
    change(model)
    onnx.save(model, out / f"{branch}.onnx")


def weight(model: onnx.ModelProto, ending: str) -> onnx.TensorProto:
    (found,) = (tensor for tensor in model.graph.initializer if tensor.name.endswith(ending))
    return found


def replace_weight(model: onnx.ModelProto, ending: str, change: Callable[[Any], Any]) -> None:
    tensor = weight(model, ending)
    values = np.ascontiguousarray(change(numpy_helper.to_array(tensor).copy()), dtype=np.float32)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def swapped_channels(model: onnx.ModelProto) -> None:
    """Blue and red trade places in the first convolution, as when a picture is decoded as BGR."""
    replace_weight(model, "embedder.embedder.convolution.weight", lambda kernel: kernel[:, ::-1])


def perturbed_weight(model: onnx.ModelProto) -> None:
    """One number of one kernel."""

    def change(kernel: Array) -> Array:
        kernel[3, 2, 1, 1] += 0.01
        return kernel

    replace_weight(model, "image_backbone.encoder.stages.1.layers.1.layer.0.convolution.weight", change)


def to_tf32(values: Array) -> Array:
    bits = (values.view(np.uint32).astype(np.uint64) + 0x1000) & 0xFFFFE000
    return bits.astype(np.uint32).view(np.float32)


def tf32_weights(model: onnx.ModelProto) -> None:
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) > 1:
            values = to_tf32(np.ascontiguousarray(numpy_helper.to_array(tensor)))
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def word_ids_off_by_one(model: onnx.ModelProto) -> None:
    replace_weight(model, "word_embeddings.weight", lambda table: np.roll(table, 1, axis=0))


def no_mask(model: onnx.ModelProto) -> None:
    """The mask's floor is 0: padding is attended to."""
    (node,) = (node for node in model.graph.node if node.op_type == "Sub")
    (product,) = (other for other in model.graph.node if other.op_type == "Mul" and node.output[0] in other.input)
    zero = numpy_helper.from_array(np.array(0, np.float32), "no_floor")
    model.graph.initializer.append(zero)
    product.input[1] = "no_floor"


@pytest.mark.parametrize(
    ("branch", "change", "sentence"),
    [
        ("image", swapped_channels, "image embeddings' cosine"),
        ("image", perturbed_weight, "image embeddings differ from the reference"),
        ("image", tf32_weights, "image embeddings differ from the reference"),
        ("text", tf32_weights, "text embeddings differ from the reference"),
        ("text", word_ids_off_by_one, "text embeddings' cosine"),
        ("text", no_mask, "text embeddings change with their padding"),
    ],
)
def test_a_fault_in_a_real_graph_is_found(
    source: SourceModel,
    tiny_bundle: Path,
    tmp_path: Path,
    branch: Branch,
    change: Callable[[onnx.ModelProto], None],
    sentence: str,
) -> None:
    folders = dict.fromkeys(BRANCHES, tiny_bundle) | {branch: tmp_path}
    fault_in_graph(tiny_bundle, tmp_path, branch, change)
    report = verified(source, folders, Shapes(batch_sizes=(1, 3), lengths=(9, 40)))
    assert any(sentence in failure for failure in report.failures), report.failures
    assert not any(f"The {other} " in failure for other in set(BRANCHES) - {branch} for failure in report.failures)


def verified(source: SourceModel, folders: Mapping[Branch, Path], shapes: Shapes) -> ParityReport:
    facts = source.facts
    tokenizer = Tokenizer(source.tokenizer_path, caption_rule="none", max_length=100, pad_id=0)
    samples = prepare_samples(synthetic_samples(), facts.preprocessing, tokenizer)
    references = {branch: torch_reference(source.branch(branch)) for branch in BRANCHES}
    runners = {
        branch: OnnxRuntimeRunner(folder / f"{branch}.onnx", RunOptions(threads=1))
        for branch, folder in folders.items()
    }
    return measure_parity(references, runners, facts.layout, samples, shapes, ParityLimits())


@pytest.fixture
def export_with_fault(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Branch, Any], None]:
    """Make exports take the tiny bundle's graphs, which saves their making, and plant a fault in one of them."""

    def plant(faulty: Branch, change: Callable[[onnx.ModelProto], None]) -> None:
        def export(_module: object, branch: Branch, _facts: object, path: Path, **_options: object) -> None:
            if branch == faulty:
                fault_in_graph(tiny_bundle, path.parent, branch, change)
            else:
                shutil.copy(tiny_bundle / path.name, path)

        monkeypatch.setattr(tbps_infer.export.bundle, "export_graph", export)

    return plant


@pytest.mark.parametrize(("branch", "change"), [("image", swapped_channels), ("text", no_mask)])
def test_an_export_over_the_limit_leaves_nothing(
    tiny_checkpoint: Path,
    tmp_path: Path,
    export_with_fault: Callable[[Branch, Any], None],
    branch: Branch,
    change: Callable[[onnx.ModelProto], None],
) -> None:
    export_with_fault(branch, change)
    with pytest.raises(VerificationError, match=f"The {branch} embeddings") as caught:
        export_bundle(tiny_checkpoint, tmp_path / "out" / "bundle")
    assert "Nothing was written" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_an_export_over_the_limit_keeps_the_bundle_that_was_there(
    tiny_bundle: Path, tiny_checkpoint: Path, tmp_path: Path, export_with_fault: Callable[[Branch, Any], None]
) -> None:
    out = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    export_with_fault("image", perturbed_weight)
    with pytest.raises(VerificationError):
        export_bundle(tiny_checkpoint, out, ExportOptions(overwrite=True))
    Bundle.open(out).check_files()
    assert [entry.name for entry in tmp_path.iterdir()] == ["bundle"]
    wide = ParityLimits(cosine=0.9, difference=1.0)
    bundle = export_bundle(tiny_checkpoint, out, ExportOptions(overwrite=True, limits=wide))
    assert bundle.verification["limits"]["cosine"] == 0.9
    assert bundle.verification["image"]["largest_difference"] > ParityLimits().difference

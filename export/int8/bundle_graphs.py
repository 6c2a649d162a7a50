"""The INT8 graphs of a bundle: calibrated, held to the gate, and written only when they pass it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_infer.encoder import Encoder
from tbps_infer.errors import VerificationError
from tbps_infer.export.graph_view import GraphView
from tbps_infer.export.graphs import check_graph
from tbps_infer.export.int8.islands import Islands, find_islands
from tbps_infer.export.int8.options import Int8Options
from tbps_infer.export.int8.quantise import embedding_tables, layers_of, quantise_graph, quantised_inputs
from tbps_infer.export.int8.ranges import METHODS, RangeMethod, clips, measure_histograms
from tbps_infer.formats.onnx_files import read_onnx
from tbps_infer.images import load_crop
from tbps_infer.model_facts import BRANCHES, Branch, ModelFacts
from tbps_infer.runners.onnxruntime_runner import OnnxRuntimeRunner
from tbps_infer.runners.options import RunOptions
from tbps_infer.runners.protocol import Feeds, branch_specs
from tbps_infer.text import Tokenizer, pad_ids
from tbps_infer.verification.agreement import Embedded
from tbps_infer.verification.evaluation_set import EvaluationSet
from tbps_infer.verification.gate import Verdict, judge
from tbps_infer.verification.similarity import cosines

__all__ = ["write_int8_graphs"]

_BATCH = 16
_HARM_ITEMS = 16
"""Crops and captions on which each layer is quantised alone."""

_Layer = tuple[Branch, int]


def write_int8_graphs(
    folder: Path,
    facts: ModelFacts,
    tokenizer: Tokenizer,
    options: Int8Options,
    on_step: Callable[[str], None] = lambda _step: None,
) -> dict[str, Any]:
    """Write ``image.int8.onnx`` and ``text.int8.onnx`` beside the FP32 graphs.

    Each branch's activations are clipped in the way, of `tbps_infer.export.int8.ranges.METHODS`, that keeps the
    calibration data's embeddings nearest to FP32's. Then the gate compares both graphs with the FP32 ones on the
    people who were held out; while it fails, the layers that do the most harm alone go back to FP32.

    Args:
        folder: With ``image.onnx`` and ``text.onnx``, verified.
        facts: What the model is.
        tokenizer: Its tokenizer.
        options: The data and the thresholds.
        on_step: Called with a few words when each step begins.

    Returns:
        What was quantised and kept, on which data, and the verdict, as plain JSON values.

    Raises:
        VerificationError: The gate fails with as many layers in FP32 as are allowed, or a graph is not valid.
        ImageError: A picture cannot be read.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix="trials-") as scratch:
        work = _Work(folder, Path(scratch), facts, tokenizer, options)
        on_step(f"Calibrating INT8 on {len(work.calibrate.crops)} crops and {len(work.calibrate.rows)} captions")
        branches = {branch: work.calibrated(branch) for branch in BRANCHES}
        on_step(
            f"Judging INT8 on {len(work.judged.crops)} crops and {len(work.judged.rows)} captions of other people"
        )
        islands = _search(work, branches, on_step)
        verdict = work.verdicts[-1]
        if islands.kept is None:
            raise VerificationError(
                f"INT8 loses too much, with up to {options.most_kept:.0%} of its layers in FP32: "
                + " ".join(verdict.failures),
                "Nothing was written. Calibrate on more pictures and captions like those to be searched, allow a "
                "greater loss, or export in fp32.",
            )
        verdict = work.judge(branches, islands.kept)
        for branch, each in branches.items():
            _install(folder, facts, branch, each.graph(_of(branch, islands.kept)))
    return {
        **options.calibration.to_json(),
        **{branch: each.to_json(_of(branch, islands.kept), islands) for branch, each in branches.items()},
        "trials": islands.trials,
        "verdict": verdict.to_json(),
    }


@dataclass(frozen=True)
class _Inputs:
    """Crops uint8 ``[n, height, width, 3]`` and rows of token ids of some people, with a batch iterator each."""

    crops: NDArray[np.uint8]
    rows: list[list[int]]
    captions: tuple[str, ...]
    pad_id: int

    def batches(self, branch: Branch) -> Iterator[Feeds]:
        if branch == "image":
            for start in range(0, len(self.crops), _BATCH):
                yield {"pixels": self.crops[start : start + _BATCH]}
            return
        ordered = sorted(self.rows, key=len)  # filling is measured too: let there be little of it
        for start in range(0, len(ordered), _BATCH):
            ids, mask = pad_ids(ordered[start : start + _BATCH], self.pad_id)
            yield {"input_ids": ids, "attention_mask": mask}

    def some(self, count: int) -> _Inputs:
        """A few, spread over all."""
        crops = np.linspace(0, len(self.crops) - 1, min(count, len(self.crops))).astype(int)
        rows = np.linspace(0, len(self.rows) - 1, min(count, len(self.rows))).astype(int)
        return _Inputs(
            self.crops[crops],
            [self.rows[place] for place in rows],
            tuple(self.captions[place] for place in rows),
            self.pad_id,
        )


@dataclass(frozen=True)
class _BranchWork:
    """One branch's FP32 graph with what was measured of it."""

    view: GraphView
    layers: tuple[int, ...]
    tables: tuple[int, ...]
    method: RangeMethod
    amax: Mapping[str, float]

    def graph(self, kept: frozenset[int]) -> Any:
        """The INT8 graph with some layers in FP32."""
        return quantise_graph(self.view, set(self.layers) - kept, set(self.tables), self.amax)

    def only(self, layer: int) -> Any:
        """The graph with one layer in INT8."""
        return quantise_graph(self.view, {layer}, set(), self.amax)

    def to_json(self, kept: frozenset[int], islands: Islands[_Layer]) -> dict[str, Any]:
        harm = {number: value for (_, number), value in islands.harm.items() if number in kept}
        return {
            "clipping": self.method,
            "int8_layers": len(self.layers) - len(kept),
            "int8_tables": len(self.tables),
            "kept_fp32": {self.view.label(number): harm.get(number) for number in sorted(kept)},
        }


@dataclass
class _Work:
    """The inputs, and graphs' embeddings of them."""

    folder: Path
    scratch: Path
    facts: ModelFacts
    tokenizer: Tokenizer
    options: Int8Options
    verdicts: list[Verdict] = field(default_factory=list)
    _embedded: dict[tuple[Branch, frozenset[int]], NDArray[np.float32]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.calibrate = self._load(self.options.calibration.calibrate)
        self.judged = self._load(self.options.calibration.judge)
        self.reference = Embedded(*(self.embed(branch, self._fp32(branch), self.judged) for branch in BRANCHES))

    def calibrated(self, branch: Branch) -> _BranchWork:
        """Measure a branch, and choose how its activations are clipped."""
        view = GraphView.open(read_onnx(self._fp32(branch)))
        layers, tables = layers_of(view), embedding_tables(view)
        names = sorted(set(quantised_inputs(view, set(layers)).values()))
        histograms = measure_histograms(view, names, self.calibrate.batches(branch))
        few = self.calibrate.some(_BATCH * 4)
        wanted = self.embed(branch, self._fp32(branch), few)
        candidates = [_BranchWork(view, layers, tables, method, clips(histograms, method)) for method in METHODS]
        return min(candidates, key=lambda each: self.loss(branch, each.graph(frozenset()), few, wanted))

    def judge(self, branches: Mapping[Branch, _BranchWork], kept: frozenset[_Layer]) -> Verdict:
        """What the gate says with some layers in FP32."""
        found = Embedded(*(self._judged(branch, branches[branch], _of(branch, kept)) for branch in BRANCHES))
        labels = self.options.calibration.judge.labels
        verdict = judge(self.reference, found, self.facts.layout, labels, self.options.thresholds)
        self.verdicts.append(verdict)
        return verdict

    def harm(self, branches: Mapping[Branch, _BranchWork]) -> dict[_Layer, float]:
        """What each layer does alone: 1 less the mean cosine, on some of the calibration data."""
        few = self.calibrate.some(_HARM_ITEMS)
        harm: dict[_Layer, float] = {}
        for branch, each in branches.items():
            wanted = self.embed(branch, self._fp32(branch), few)
            for layer in each.layers:
                harm[branch, layer] = self.loss(branch, each.only(layer), few, wanted)
        return harm

    def loss(self, branch: Branch, graph: Any, inputs: _Inputs, wanted: NDArray[np.float32]) -> float:
        """1 less the mean cosine of a graph's embeddings; infinity when one has none."""
        import onnx

        path = self.scratch / "trial.onnx"
        onnx.save(graph, path)
        loss = 1 - float(cosines(self.embed(branch, path, inputs), wanted).mean())
        return loss if np.isfinite(loss) else np.inf

    def embed(self, branch: Branch, graph: Path, inputs: _Inputs) -> NDArray[np.float32]:
        """A graph's embeddings, as `tbps_infer.encoder.Encoder` makes them."""

        def opened() -> OnnxRuntimeRunner:
            return OnnxRuntimeRunner(graph, RunOptions())

        with Encoder(self.facts, self.tokenizer, opened, opened, batch_size=_BATCH) as encoder:
            if branch == "image":
                return encoder.encode_crops(inputs.crops)
            return encoder.encode_texts(inputs.captions)

    def _judged(self, branch: Branch, work: _BranchWork, kept: frozenset[int]) -> NDArray[np.float32]:
        import onnx

        if (branch, kept) not in self._embedded:
            path = self.scratch / "judged.onnx"
            onnx.save(work.graph(kept), path)
            self._embedded[branch, kept] = self.embed(branch, path, self.judged)
        return self._embedded[branch, kept]

    def _load(self, data: EvaluationSet) -> _Inputs:
        crops = np.stack([load_crop(path, self.facts.preprocessing) for path in data.pictures])
        return _Inputs(crops, self.tokenizer.encode(data.captions), data.captions, self.facts.pad_id)

    def _fp32(self, branch: Branch) -> Path:
        return self.folder / f"{branch}.onnx"


def _search(work: _Work, branches: Mapping[Branch, _BranchWork], on_step: Callable[[str], None]) -> Islands[_Layer]:
    layers = [(branch, layer) for branch, each in branches.items() for layer in each.layers]

    def harm() -> dict[_Layer, float]:
        on_step(f"INT8 loses too much: measuring what each of {len(layers)} layers does alone")
        return work.harm(branches)

    def passes(kept: frozenset[_Layer]) -> bool:
        if kept:
            on_step(f"Judging INT8 with {len(kept)} of {len(layers)} layers in FP32")
        return work.judge(branches, kept).passed

    return find_islands(layers, harm, passes, most=int(work.options.most_kept * len(layers)))


def _install(folder: Path, facts: ModelFacts, branch: Branch, graph: Any) -> None:
    import onnx

    path = folder / f"{branch}.int8.onnx"
    onnx.save(graph, path)
    (opset,) = (entry.version for entry in graph.opset_import if not entry.domain)
    check_graph(path, *branch_specs(facts, branch), opset)


def _of(branch: Branch, kept: frozenset[_Layer]) -> frozenset[int]:
    return frozenset(number for where, number in kept if where == branch)

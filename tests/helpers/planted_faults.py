"""Plants faults in exported bundles and in runners, for tests of what must notice them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from tbps_infer.bundle import file_facts
from tbps_infer.model_facts import ModelFacts
from tbps_infer.runners.onnxruntime_runner import OnnxRuntimeRunner
from tbps_infer.runners.protocol import SerialRunner

__all__ = ["Distorted", "perturb_weights", "seal"]


def perturb_weights(graph: Path) -> None:
    """Noise of 0.8 standard deviations on every matrix: an image branch loses much of its accuracy by it."""
    model = onnx.load(graph)
    rng = np.random.default_rng(0)
    for tensor in model.graph.initializer:
        if len(tensor.dims) >= 2 and tensor.data_type == onnx.TensorProto.FLOAT:
            values = numpy_helper.to_array(tensor)
            noisy = values + 0.8 * values.std() * rng.normal(size=values.shape)
            tensor.CopyFrom(numpy_helper.from_array(noisy.astype(np.float32), tensor.name))
    onnx.save(model, graph)


def seal(bundle: Path, **model: Any) -> None:
    """Write the facts anew, some of the model's changed, as an export that made this mistake would have."""
    file = bundle / "bundle.json"
    values = json.loads(file.read_text(encoding="utf-8"))
    files = file_facts(bundle)
    values["files"] = {name: {"bytes": f.bytes, "sha256": f.sha256} for name, f in files.items()}
    facts = replace(ModelFacts.from_json(values["model"]), **model)
    values["model"] = facts.identified(facts.weights, files["tokenizer.json"].sha256).to_json()
    file.write_text(json.dumps(values), encoding="utf-8")


class Distorted(SerialRunner):
    """A runner that gives the right embeddings, but for one fault."""

    def __init__(self, runner: OnnxRuntimeRunner, fault: Callable[[Any], Any]) -> None:
        self.runner, self.fault = runner, fault
        self.inputs, self.outputs, self.description = runner.inputs, runner.outputs, "distorted"

    def run(self, feeds: Any) -> Any:
        return {name: self.fault(array.copy()) for name, array in self.runner.run(feeds).items()}

    def close(self) -> None:
        self.runner.close()

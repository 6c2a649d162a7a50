"""Plants faults in exported bundles, for tests of what must notice them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from tbps_infer.bundle import file_facts

__all__ = ["perturb_weights", "seal"]


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
    values["model"] |= model
    values["files"] = {name: {"bytes": f.bytes, "sha256": f.sha256} for name, f in file_facts(bundle).items()}
    file.write_text(json.dumps(values), encoding="utf-8")

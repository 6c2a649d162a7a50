"""One branch of a PyTorch model becomes one ONNX graph, checked and loaded before anyone else sees it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tbps_infer.errors import BackendError, VerificationError
from tbps_infer.explain.maps import ImageAttention, TextAttention
from tbps_infer.export.options import DEFAULT_OPSET
from tbps_infer.export.quiet import quiet
from tbps_infer.formats.onnx_files import read_onnx
from tbps_infer.model_facts import Branch, ModelFacts
from tbps_infer.reference.model import PartModel
from tbps_infer.runners.onnxruntime_runner import OnnxRuntimeRunner
from tbps_infer.runners.options import RunOptions
from tbps_infer.runners.protocol import TensorSpec, branch_specs

__all__ = ["check_graph", "export_attention", "export_graph"]

_logger = logging.getLogger(__name__)

_TRACED_BATCH = 2  # 0 and 1 are taken for constants when a graph is traced
_TRACED_LENGTH = 9
_NO_LIMIT = 1 << 62


def export_graph(
    module: nn.Module,
    branch: Branch,
    facts: ModelFacts,
    path: Path,
    *,
    opset: int = DEFAULT_OPSET,
    external_data: bool = False,
    gives: Sequence[TensorSpec] | None = None,
) -> None:
    """Write a branch as an FP32 graph whose batch, and length for text, are free.

    The graph's inputs and output are those of `tbps_infer.runners.protocol.branch_specs`. It carries no traces of
    the machine it was made on, and the same weights give the same bytes.

    Args:
        module: In eval mode, on the CPU; takes the branch's inputs in order and returns its embedding.
        branch: Which branch the module is.
        facts: Of the model.
        path: The ``.onnx`` file; external data goes beside it, as ``<name>.onnx.data``.
        opset: 18 to 22.
        external_data: Keep the weights beside the graph; above 2 GB, protobuf's limit, they are kept there anyway.
        gives: The outputs, where the module gives something else than the branch's embedding.

    Raises:
        VerificationError: What came out is not a valid graph, or not this branch's.
    """
    inputs, embedding = branch_specs(facts, branch)
    outputs = embedding if gives is None else gives
    axes: dict[str, Any] = {
        spec.name: {axis: size for axis, size in enumerate(spec.shape) if isinstance(size, str)} for spec in inputs
    }
    with quiet(_logger), torch.no_grad():
        import onnxscript.optimizer

        program = torch.onnx.export(
            module.eval(),
            tuple(_example(spec) for spec in inputs),
            dynamo=True,
            opset_version=opset,
            optimize=True,
            verbose=False,
            input_names=[spec.name for spec in inputs],
            output_names=[spec.name for spec in outputs],
            dynamic_shapes=axes,
        )
        assert program is not None  # None comes from the exporter that dynamo=True replaces
        # The exporter's own optimizer leaves products of weights above 8 kB to every load. This run of it leaves
        # none, and gives a value inside the graph that bears the output's name another one.
        onnxscript.optimizer.optimize(program.model, input_size_limit=_NO_LIMIT, output_size_limit=_NO_LIMIT)
        _strip(program.model)
        program.save(path, external_data=external_data)
    check_graph(path, inputs, outputs, opset)


def export_attention(model: PartModel, facts: ModelFacts, folder: Path, *, opset: int = DEFAULT_OPSET) -> None:
    """Write ``image.attention.onnx`` and ``text.attention.onnx``, with the inputs of the branches.

    Their outputs are ``image_attention``, float32 ``[batch, N_c, rows·columns]``, and ``text_attention``, float32
    ``[batch, N_c + K, length]``, averaged over heads.

    Raises:
        VerificationError: A graph is not valid.
    """
    config = model.config
    rows, columns = config.map_size
    image = TensorSpec("image_attention", np.dtype(np.float32), ("batch", config.coarse_tokens, rows * columns))
    tokens = config.coarse_tokens + config.parts
    text = TensorSpec("text_attention", np.dtype(np.float32), ("batch", tokens, "length"))
    file = folder / "image.attention.onnx"
    export_graph(ImageAttention(model), "image", facts, file, opset=opset, gives=(image,))
    file = folder / "text.attention.onnx"
    export_graph(TextAttention(model), "text", facts, file, opset=opset, gives=(text,))


def check_graph(path: Path, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], opset: int) -> None:
    """Check a graph with the ONNX checker and by loading it in ONNX Runtime, and its inputs and outputs.

    Both, because either lets through files that the other refuses.

    Raises:
        VerificationError: It is not valid, cannot be loaded, or its opset, inputs or outputs are others.
    """
    import onnx

    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise VerificationError(
            f"{path.name} is not a valid ONNX graph: {reason}.",
            "If a name is defined twice, a parameter or value of the module has the output's name: rename it there.",
        ) from error
    model = read_onnx(path, external_data=False)
    versions = {entry.domain: entry.version for entry in model.opset_import}
    if versions != {"": opset}:
        raise VerificationError(f"{path.name} was exported with opsets {versions}, and {opset} was asked for.")
    try:
        runner = OnnxRuntimeRunner(path, RunOptions(threads=1))
    except BackendError as error:
        raise VerificationError(error.message, error.hint) from error
    given = tuple(runner.inputs), tuple(runner.outputs)
    runner.close()
    if given != (tuple(inputs), tuple(outputs)):
        raise VerificationError(
            f"{path.name} takes {_listed(given[0])} and gives {_listed(given[1])}; "
            f"want {_listed(inputs)} and {_listed(outputs)}."
        )


def _example(spec: TensorSpec) -> Tensor:
    traced = {"batch": _TRACED_BATCH, "length": _TRACED_LENGTH}
    shape = [traced[size] if isinstance(size, str) else size for size in spec.shape]
    return torch.ones(shape, dtype=torch.uint8 if spec.dtype == "uint8" else torch.int32)


def _strip(model: Any) -> None:
    """Drop what the exporter notes about its own work: stack traces with the paths of this machine, for one."""
    model.metadata_props.clear()
    for graph in (model.graph, *model.graph.subgraphs()):
        graph.metadata_props.clear()
        for value in (*graph.inputs, *graph.initializers.values()):
            value.metadata_props.clear()
        for node in graph:
            node.metadata_props.clear()
            node.doc_string = None
            for value in node.outputs:
                value.metadata_props.clear()


def _listed(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(map(str, specs))

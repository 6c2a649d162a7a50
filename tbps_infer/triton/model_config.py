"""The configurations of a repository's models, in protobuf's text format."""

from __future__ import annotations

import json
from collections.abc import Sequence

from tbps_infer.devices import Device
from tbps_infer.model_facts import Branch, ModelFacts
from tbps_infer.runners.protocol import TensorSpec, branch_specs
from tbps_infer.triton.options import TritonOptions

__all__ = ["branch_config", "ensemble_config", "tokenizer_config"]

_TYPES = {"uint8": "TYPE_UINT8", "int32": "TYPE_INT32", "float32": "TYPE_FP32"}
_TEXT = '{ name: "text" data_type: TYPE_STRING dims: [1] }'


def branch_config(facts: ModelFacts, branch: Branch, file: str, most: int, options: TritonOptions) -> str:
    """The model of one branch, a graph or an engine.

    Args:
        facts: Of the model.
        branch: Which.
        file: The graph's or plan's name.
        most: Items per run at most.
        options: Backend, device, instances, delay.
    """
    inputs, outputs = (list(map(_tensor, specs)) for specs in branch_specs(facts, branch))
    name = f"{options.name}_{'image' if branch == 'image' else 'text_graph'}"
    lines = _head(name, f'backend: "{options.run.backend}"', most, inputs, outputs)
    device = Device.parse(options.run.device)
    where = "kind: KIND_CPU" if device.kind == "cpu" else f"kind: KIND_GPU gpus: [{device.index}]"
    lines += [f'default_model_filename: "{file}"', _batching(options)]
    lines += [f"instance_group [ {{ count: {options.instances} {where} }} ]"]
    lines += [_parameter("precision", options.run.precision)]
    return _ended(lines, facts)


def tokenizer_config(facts: ModelFacts, lengths: Sequence[int], most: int, options: TritonOptions) -> str:
    """The model that turns sentences into token ids, in Triton's Python backend.

    Args:
        facts: Of the model.
        lengths: Tokens per caption that the text model runs, ascending.
        most: Sentences per run at most.
        options: Instances, delay.
    """
    inputs, _ = branch_specs(facts, "text")
    lines = _head(f"{options.name}_tokenizer", 'backend: "python"', most, [_TEXT], list(map(_tensor, inputs)))
    lines += [_batching(options), f"instance_group [ {{ count: {options.instances} kind: KIND_CPU }} ]"]
    said = {"caption_rule": facts.caption_rule, "max_length": facts.max_length, "pad_id": facts.pad_id}
    lines += [_parameter(name, str(value)) for name, value in said.items()]
    lines += [_parameter("lengths", ",".join(map(str, lengths)))]
    if options.python_env is not None:
        lines += [_parameter("EXECUTION_ENV_PATH", options.python_env)]
    return _ended(lines, facts)


def ensemble_config(facts: ModelFacts, most: int, options: TritonOptions) -> str:
    """The model from sentences to embeddings: the tokenizer, then the text model.

    Args:
        facts: Of the model.
        most: Sentences per request at most.
        options: The models' names.
    """
    inputs, (embedding,) = branch_specs(facts, "text")
    lines = _head(f"{options.name}_text", 'platform: "ensemble"', most, [_TEXT], [_tensor(embedding)])
    between = [spec.name for spec in inputs]
    lines += ["ensemble_scheduling {", "  step ["]
    lines += [_step(f"{options.name}_tokenizer", ["text"], between) + ","]
    lines += [_step(f"{options.name}_text_graph", between, [embedding.name]), "  ]", "}"]
    return _ended(lines, facts)


def _head(name: str, runs_on: str, most: int, inputs: list[str], outputs: list[str]) -> list[str]:
    return [
        f'name: "{name}"',
        runs_on,
        f"max_batch_size: {most}",
        f"input [ {', '.join(inputs)} ]",
        f"output [ {', '.join(outputs)} ]",
    ]


def _ended(lines: list[str], facts: ModelFacts) -> str:
    return "\n".join([*lines, _parameter("fingerprint", facts.fingerprint)]) + "\n"


def _tensor(spec: TensorSpec) -> str:
    """A tensor without its batch, which Triton adds; -1 is an axis of any size."""
    dims = ", ".join(str(size) if isinstance(size, int) else "-1" for size in spec.shape[1:])
    return f'{{ name: "{spec.name}" data_type: {_TYPES[spec.dtype.name]} dims: [{dims}] }}'


def _batching(options: TritonOptions) -> str:
    return f"dynamic_batching {{ max_queue_delay_microseconds: {options.delay_us} }}"


def _step(model: str, inputs: Sequence[str], outputs: Sequence[str]) -> str:
    maps = [f'input_map {{ key: "{name}" value: "{name}" }}' for name in inputs]
    maps += [f'output_map {{ key: "{name}" value: "{name}" }}' for name in outputs]
    return f'    {{ model_name: "{model}" model_version: -1 {" ".join(maps)} }}'


def _parameter(name: str, value: str) -> str:
    return f'parameters {{ key: "{name}" value {{ string_value: {json.dumps(value, ensure_ascii=False)} }} }}'

"""The tokenizer as a model of Triton's Python backend: sentences to token ids, filled up to few lengths.

The captions' rules and the tokenizer are those of `tbps search`. Requests whose sentences fall into the same length
run together in the text model, and what is filled up is masked there, so that no embedding depends on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tbps_infer.errors import TbpsError, UsageError
from tbps_infer.formats.json_files import parse_json
from tbps_infer.runners.buckets import bucket_for
from tbps_infer.text import Tokenizer, pad_ids

__all__ = ["TritonPythonModel"]


class TritonPythonModel:
    """Triton's interface: `initialize` once, `execute` for the requests that arrived together."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the tokenizer that lies beside the model's program, and the configuration's parameters."""
        parameters = parse_json(args["model_config"])["parameters"]
        said = {name: value["string_value"] for name, value in parameters.items()}
        self._lengths = [int(length) for length in said["lengths"].split(",")]
        self._tokenizer = Tokenizer(
            Path(args["model_repository"]) / args["model_version"] / "tokenizer.json",
            caption_rule=said["caption_rule"],
            max_length=int(said["max_length"]),
            pad_id=int(said["pad_id"]),
        )

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer requests, each with its own ids or its own error."""
        import triton_python_backend_utils as triton  # the server has it, and no package

        return [self._answer(triton, request) for request in requests]

    def _answer(self, triton: Any, request: Any) -> Any:
        given = triton.get_input_tensor_by_name(request, "text").as_numpy().reshape(-1)
        try:
            rows = self._tokenizer.encode([_decoded(text) for text in given])
            length = bucket_for(max(map(len, rows)), self._lengths)
            ids, mask = pad_ids(rows, self._tokenizer.pad_id, length)
        except TbpsError as error:
            sentence = f"{error.message} {error.hint}".strip()
            return triton.InferenceResponse(error=triton.TritonError(sentence))
        arrays = {"input_ids": ids, "attention_mask": mask}
        return triton.InferenceResponse([triton.Tensor(name, np.ascontiguousarray(a)) for name, a in arrays.items()])


def _decoded(text: bytes | str) -> str:
    try:
        return text.decode() if isinstance(text, bytes) else text
    except UnicodeDecodeError as error:
        raise UsageError("A sentence is not valid Unicode text.", "Send sentences in UTF-8.") from error

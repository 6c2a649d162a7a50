"""The tokenizer in Triton's Python backend gives the ids of `tbps search`, filled up to few lengths."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from places import SHIPPED_BUNDLE

from tbps_infer.bundle import Bundle
from tbps_infer.text import Tokenizer
from tbps_infer.triton.tokenizer_model import TritonPythonModel


@dataclass(frozen=True)
class Tensor:
    name: str
    array: NDArray[Any]

    def as_numpy(self) -> NDArray[Any]:
        return self.array


@dataclass(frozen=True)
class Response:
    tensors: Sequence[Tensor] = ()
    error: str | None = None


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TritonPythonModel:
    backend = SimpleNamespace(
        Tensor=Tensor, InferenceResponse=Response, TritonError=str, get_input_tensor_by_name=lambda one, _name: one
    )
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", backend)
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "tokenizer.json").write_bytes((SHIPPED_BUNDLE / "tokenizer.json").read_bytes())
    said = '{"caption_rule": {"string_value": "none"}, "max_length": {"string_value": "100"}, '
    said += '"pad_id": {"string_value": "0"}, "lengths": {"string_value": "16,32,100"}}'
    made = TritonPythonModel()
    made.initialize(
        {"model_config": f'{{"parameters": {said}}}', "model_repository": str(tmp_path), "model_version": "1"}
    )
    return made


def texts(*sentences: bytes) -> Tensor:
    return Tensor("text", np.array([[sentence] for sentence in sentences], dtype=object))


def test_ids_are_the_bundles_tokenizers(model: TritonPythonModel) -> None:
    captions = ["a man in a red coat", "a woman with a backpack and white shoes, a blue hat and long dark hair"]
    (response,) = model.execute([texts(*(caption.encode() for caption in captions))])
    ids, mask = (tensor.array for tensor in response.tensors)
    rows = Tokenizer.from_bundle(Bundle.open(SHIPPED_BUNDLE)).encode(captions)
    assert ids.shape == mask.shape == (2, 32) and ids.dtype == mask.dtype == np.int32
    assert [one[kept != 0].tolist() for one, kept in zip(ids, mask, strict=True)] == rows


def test_each_request_has_its_own_length_and_its_own_error(model: TritonPythonModel) -> None:
    short, empty, broken, long = model.execute(
        [texts(b"a man"), texts(b" "), texts(b"\xff"), texts(b"a man with a red bag " * 20)]
    )
    assert short.tensors[0].array.shape == (1, 16)
    assert "Caption 1 has no words" in empty.error and "not valid Unicode" in broken.error
    assert long.tensors[0].array.shape == (1, 100)

"""Graphs of the decoder's attention, beside the ordinary ones, which stay as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tbps_infer.bundle import ModelFacts
from tbps_infer.explain.maps import ImageAttention, TextAttention
from tbps_infer.export.graphs import export_graph
from tbps_infer.export.options import DEFAULT_OPSET
from tbps_infer.reference.model import PartModel
from tbps_infer.runners.protocol import TensorSpec

__all__ = ["export_attention"]


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
